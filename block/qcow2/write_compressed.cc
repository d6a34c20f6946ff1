// SPDX-License-Identifier: GPL-2.0-or-later
//
// Writing whole clusters compressed.
#include <fmt/format.h>
#include <algorithm>

#include <cerrno>
#include <cstring>

#include "block/base/aligned_buffer.h"
#include "block/qcow2/compression.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {

// Whole clusters, but for the last of the disk.
Task<Status> Image::write_compressed(uint64_t offset, IoVector from) {
  if (is_unusable()) co_return Status::error(EIO);
  if (has_data_file() || encryption_) co_return Status::error(ENOTSUP);
  if (geometry_.in_cluster(GuestOffset(offset)) != 0) co_return Status::error(EINVAL);
  Status status = co_await before_first_write();
  Epochs::Pass pass = epochs_.enter();
  for (size_t done = 0; status.ok() && done < from.size();) {
    size_t bytes = std::min<size_t>(from.size() - done, geometry_.cluster_size());
    GuestOffset at(offset + done);
    if (bytes < geometry_.cluster_size() && at.value + bytes < size())
      co_return Status::error(EINVAL);
    status = co_await write_compressed_cluster(at, from.slice(done, bytes));
    done += bytes;
  }
  co_return status;
}

Task<Status> Image::write_compressed_cluster(GuestOffset offset, IoVector from) {
  AlignedBuffer plain(geometry_.cluster_size());
  if (!plain) co_return Status::error(ENOMEM);
  std::memset(plain.data() + from.size(), 0, plain.size() - from.size());
  from.copy_to(plain.data());
  std::vector<std::byte> packed =
      compress_cluster(CompressionType(header_.compression_type), {plain.data(), plain.size()});
  if (packed.empty()) co_return co_await write(offset.value, from);

  ByteRange range{offset.value, geometry_.cluster_size()};
  RangeLock::Hold hold(allocating_, range, RangeLock::Mode::exclusive);
  co_await hold.acquire();
  Mutex::Lock lock = co_await metadata_.lock();
  Result<HostOffset> place = co_await refcounts_.allocate_bytes(packed.size());
  if (!place) co_return place.status();
  // A descriptor has fewer bits for an offset than other entries.
  CompressedExtent extent{*place, packed.size()};
  HostCluster first = geometry_.cluster_of(*place);
  const char* what = metadata_at(geometry_.offset_of(first), geometry_.cluster_size());
  lock.unlock();
  Allocation allocation(*this, first, 1);
  if (what != nullptr) {
    signal_corruption(fmt::format("Preventing invalid write on metadata (overlaps with {})", what),
                      *place, packed.size(), true);
    co_return Status::error(EIO);
  }
  if ((place->value & ~geometry_.compressed_offset_mask()) != 0) co_return Status::error(EFBIG);
  Status status = co_await file_.write(*place, packed);
  if (!status.ok()) co_return status;
  Changing changing;
  GuestCluster cluster = geometry_.cluster_of(offset);
  status = co_await begin_change(changing, l2_.slice_of(cluster));
  if (!status.ok()) co_return status;
  unsigned index = l2_.index_in_slice(cluster);
  L2Entry old = changing.slice.load(index);
  changing.slice.store(index, L2Entry::compressed(extent, geometry_));
  allocation.linked();
  free_entry(old, FreedBy::other);
  co_return Status();
}

}  // namespace strata::qcow2
