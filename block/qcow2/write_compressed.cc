// SPDX-License-Identifier: GPL-2.0-or-later
//
// Writing whole clusters compressed: packed in another thread, side by side with other requests,
// and placed in the order in which the requests came.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>

#include "block/aio/thread_pool.h"
#include "block/base/aligned_buffer.h"
#include "block/io/debug_event.h"
#include "block/qcow2/compression.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {
namespace {

constexpr uint64_t kMostPacked = 1024 * 1024;  // bytes, in one piece

}  // namespace

unsigned Image::packers() noexcept {
  static const unsigned processors = std::max(1u, std::thread::hardware_concurrency());
  return processors;
}

// Some clusters on their way: what they are packed to lies in `memory`, one behind the other.
struct Image::Packing {
  struct Cluster {
    GuestCluster cluster;
    size_t bytes = 0;  // 0: cannot be packed
    size_t at = 0;     // in memory
    CompressedExtent extent;
    std::optional<Allocation> allocation;
  };
  std::deque<Cluster> clusters;
  AlignedBuffer plain;   // where the request's memory will not do
  AlignedBuffer memory;  // of the size of all clusters
};

// Whole clusters, but for the last of the disk.
Task<Status> Image::write_compressed(uint64_t offset, IoVector from) {
  if (is_unusable()) co_return unusable();
  if (has_data_file() || encryption_) co_return Status::error(ENOTSUP);
  if (geometry_.in_cluster(GuestOffset(offset)) != 0) co_return Status::error(EINVAL);
  bool whole = from.size() % geometry_.cluster_size() == 0 || offset + from.size() >= size();
  if (!whole) co_return Status::error(EINVAL);
  uint64_t most = std::max(kMostPacked, geometry_.cluster_size());
  for (size_t done = 0; done < from.size();) {
    size_t bytes = std::min<size_t>(from.size() - done, most);
    Status status = co_await write_packed(GuestOffset(offset + done), from.slice(done, bytes));
    if (!status.ok()) co_return status;
    done += bytes;
  }
  co_return Status();
}

Task<Status> Image::write_packed(GuestOffset offset, IoVector from) {
  Turnstile::Turn turn = packing_order_.draw();
  Status status = co_await before_first_write();
  if (!status.ok()) co_return status;
  Epochs::Pass pass = epochs_.enter();
  Packing packing;
  status = co_await pack(packing, offset, from);
  co_await turn.wait();
  if (!status.ok()) co_return status;
  {
    uint64_t end = geometry_.round_up(offset.value + from.size());
    RangeLock::Hold hold(allocating_, {offset.value, end - offset.value},
                         RangeLock::Mode::exclusive);
    co_await hold.acquire();
    status = co_await place_packed(packing);
    turn.done();
    if (status.ok()) co_await io::debug_event(file_.edge(), qapi::BlkdebugEvent::write_compressed);
    if (status.ok()) status = co_await write_packed_bytes(packing);
    if (status.ok()) status = co_await link_packed(packing);
  }
  if (!status.ok()) co_return status;
  // What would not become smaller is written as it is.
  for (const Packing::Cluster& cluster : packing.clusters) {
    if (cluster.bytes != 0) continue;
    uint64_t at = geometry_.offset_of(cluster.cluster).value;
    size_t skip = at - offset.value;
    size_t bytes = std::min<size_t>(geometry_.cluster_size(), from.size() - skip);
    status = co_await write(at, from.slice(skip, bytes));
    if (!status.ok()) co_return status;
  }
  co_return status;
}

Task<Status> Image::pack(Packing& packing, GuestOffset offset, IoVector from) {
  uint64_t size = geometry_.cluster_size();
  uint64_t all = geometry_.round_up(from.size());
  Semaphore::Units processor = co_await packers_.acquire();
  packing.memory = AlignedBuffer(all);
  if (!packing.memory) co_return Status::error(ENOMEM);
  const std::byte* plain = from.contiguous();
  if (plain == nullptr || all != from.size()) {
    packing.plain = AlignedBuffer(all);
    if (!packing.plain) co_return Status::error(ENOMEM);
    from.copy_to(packing.plain.data());
    std::memset(packing.plain.data() + from.size(), 0, all - from.size());
    plain = packing.plain.data();
  }
  for (uint64_t at = 0; at < all; at += size)
    packing.clusters.emplace_back().cluster = geometry_.cluster_of(offset + at);
  auto type = CompressionType(header_.compression_type);
  std::optional<int> level = compression_level_;
  co_await AioContext::current()->service<ThreadPool>().run([&packing, plain, size, type, level] {
    size_t used = 0;
    const std::byte* next = plain;
    for (Packing::Cluster& cluster : packing.clusters) {
      cluster.at = used;
      cluster.bytes = compress_cluster(type, level, cluster.cluster.value, {next, size},
                                       {packing.memory.data() + used, size});
      used += cluster.bytes;
      next += size;
    }
  });
  co_return Status();
}

Task<Status> Image::place_packed(Packing& packing) {
  Mutex::Lock lock = co_await metadata_.lock();
  for (Packing::Cluster& cluster : packing.clusters) {
    if (cluster.bytes == 0) continue;
    Status prepared = co_await prepare_table(geometry_.l1_index(cluster.cluster));
    if (!prepared.ok()) co_return prepared;
    co_await io::debug_event(file_.edge(), qapi::BlkdebugEvent::cluster_alloc_bytes);
    Result<HostOffset> place = co_await refcounts_.allocate_bytes(cluster.bytes);
    if (!place) co_return place.status();
    cluster.extent = {*place, cluster.bytes};
    HostCluster first = geometry_.cluster_of(*place);
    HostCluster last = geometry_.cluster_of(*place + (cluster.bytes - 1));
    uint64_t clusters = last - first + 1;
    cluster.allocation.emplace(*this, first, clusters);
    const char* what = metadata_at(geometry_.offset_of(first), clusters * geometry_.cluster_size());
    if (what != nullptr) {
      signal_corruption(
          fmt::format("Preventing invalid write on metadata (overlaps with {})", what), *place,
          cluster.bytes, true);
      co_return Status::error(EIO);
    }
    // A descriptor has fewer bits for an offset than other entries.
    if ((place->value & ~geometry_.compressed_offset_mask()) != 0) co_return Status::error(EFBIG);
  }
  co_return Status();
}

// What follows each other in memory and in the file goes there in one request.
Task<Status> Image::write_packed_bytes(const Packing& packing) {
  HostOffset at;
  size_t start = 0;
  size_t bytes = 0;
  for (const Packing::Cluster& cluster : packing.clusters) {
    if (cluster.bytes == 0) continue;
    if (bytes != 0 && at + bytes != cluster.extent.offset) {
      Status status = co_await file_.write(at, {packing.memory.data() + start, bytes});
      if (!status.ok()) co_return status;
      bytes = 0;
    }
    if (bytes == 0) {
      at = cluster.extent.offset;
      start = cluster.at;
    }
    bytes += cluster.bytes;
  }
  if (bytes == 0) co_return Status();
  co_return co_await file_.write(at, {packing.memory.data() + start, bytes});
}

Task<Status> Image::link_packed(Packing& packing) {
  Changing changing;
  std::optional<SliceIndex> slice;
  for (Packing::Cluster& cluster : packing.clusters) {
    if (cluster.bytes == 0) continue;
    SliceIndex needed = l2_.slice_of(cluster.cluster);
    if (slice != needed) {
      changing = Changing();
      Status status = co_await begin_change(changing, needed);
      if (!status.ok()) co_return status;
      slice = needed;
    }
    unsigned index = l2_.index_in_slice(cluster.cluster);
    L2Entry old = changing.slice.load(index);
    co_await io::debug_event(file_.edge(), qapi::BlkdebugEvent::l2_update_compressed);
    changing.slice.store(index, L2Entry::compressed(cluster.extent, geometry_));
    cluster.allocation->linked();
    free_entry(old, FreedBy::other);
  }
  co_return Status();
}

}  // namespace strata::qcow2
