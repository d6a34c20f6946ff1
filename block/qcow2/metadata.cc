// SPDX-License-Identifier: GPL-2.0-or-later
//
// What every change of the mapping goes through.
#include <fmt/format.h>

#include <cerrno>

#include "block/graph/layer.h"
#include "block/io/debug_event.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {

Task<Status> Image::begin_change(Changing& changing, SliceIndex slice) {
  for (;;) {
    changing.lock = co_await metadata_.lock();
    Status status = co_await prepare_table(l2_.l1_index(slice));
    if (status.ok()) changing.slice = l2_.try_pin(slice);
    if (changing.slice) co_return Status();
    changing.lock.unlock();
    if (status.ok()) status = co_await load_slice(slice);
    if (!status.ok()) co_return status;
  }
}

// Gives the L1 entry a table that nobody else refers to: a new one, or a copy of the one it has.
Task<Status> Image::prepare_table(L1Index index) {
  L1Entry old = l1_.load(index);
  if (old.offset().value != 0 && old.copied()) co_return Status();
  if (index.value >= l1_.size()) co_return Status::error(EFBIG);
  Result<HostCluster> cluster = co_await allocate_clusters(1);
  if (!cluster) co_return cluster.status();
  Allocation allocation(*this, *cluster, 1);
  HostOffset place = geometry_.offset_of(*cluster);
  refcounts_.take_fresh(*cluster, 1);
  Status status;
  co_await io::debug_event(file_.edge(), qapi::BlkdebugEvent::l2_alloc_write);
  if (old.offset().value != 0) {
    if (!geometry_.is_cluster_aligned(old.offset().value)) co_return Status::error(EIO);
    std::vector<std::byte> table(geometry_.cluster_size());
    status = co_await file_.read(old.offset(), table);
    if (status.ok()) status = co_await file_.write(place, table);
  } else {
    // Behind the end of the file, too: what is referred to is inside.
    status = co_await file_.write_zeroes(place, geometry_.cluster_size());
  }
  if (!status.ok()) co_return status;
  filter_.add(*cluster);
  l1_.store(index, L1Entry::of(place, true));
  allocation.linked();
  if (old.offset().value != 0) free_later(geometry_.cluster_of(old.offset()), 1, FreedBy::other);
  co_return Status();
}

// With the metadata lock. A cluster that is free by its refcount and yet holds metadata would be
// overwritten: then the refcounts are wrong, and the image must not be written to any more.
Task<Result<HostCluster>> Image::allocate_clusters(uint64_t clusters) {
  co_await io::debug_event(file_.edge(), qapi::BlkdebugEvent::cluster_alloc);
  Result<HostCluster> first = co_await refcounts_.allocate(clusters);
  if (!first) {
    if (refcounts_.found_corruption())
      signal_corruption("Refblock offset unaligned", std::nullopt, 0, true);
    co_return first;
  }
  HostOffset at = geometry_.offset_of(*first);
  uint64_t bytes = clusters * geometry_.cluster_size();
  if (const char* what = metadata_at(at, bytes)) {
    signal_corruption(fmt::format("Preventing invalid write on metadata (overlaps with {})", what),
                      at, bytes, true);
    co_return Status::error(EIO);
  }
  co_return first;
}

const char* Image::metadata_at(HostOffset at, uint64_t bytes) const {
  ByteRange range{at.value, bytes};
  auto covers = [&](uint64_t offset, uint64_t length) {
    return length != 0 && range.overlaps({offset, length});
  };
  uint64_t cluster = geometry_.cluster_size();
  if (covers(0, cluster)) return "qcow2_header";
  if (covers(header_.l1_table_offset, l1_.size() * 8)) return "active L1 table";
  if (covers(refcounts_.table_offset().value, refcounts_.table_clusters() * cluster))
    return "refcount table";
  if (covers(header_.snapshots_offset, snapshot_table_bytes_)) return "snapshot table";
  for (const Snapshot& snapshot : snapshots_) {
    if (covers(snapshot.l1_offset.value, uint64_t{snapshot.l1_size} * 8))
      return "inactive L1 table";
  }
  if (extensions_.bitmaps &&
      covers(extensions_.bitmaps->directory_offset.value, extensions_.bitmaps->directory_size))
    return "bitmap directory";
  bool suspicious = false;
  HostCluster last = geometry_.cluster_of(at + (bytes - 1));
  for (HostCluster c = geometry_.cluster_of(at); c <= last; ++c)
    suspicious = suspicious || filter_.may_hold(c);
  if (!suspicious) return nullptr;
  for (size_t i = 0; i < l1_.size(); ++i) {
    HostOffset table = l1_.load(L1Index(i)).offset();
    if (table.value != 0 && covers(table.value, cluster)) return "active L2 table";
  }
  for (uint64_t entry : refcounts_.table()) {
    HostOffset block = RefcountTableEntry{entry}.offset();
    if (block.value == 0 || !covers(block.value, cluster)) continue;
    // A block may have just been put into a new cluster next to the one allocated.
    return "refcount block";
  }
  return nullptr;
}

// Data that is written where the L2 table says it is. Cheap where nothing is suspicious.
Task<Status> Image::check_in_place(HostOffset at, uint64_t bytes) {
  if (has_data_file()) co_return Status();
  bool suspicious = false;
  HostCluster last = geometry_.cluster_of(at + (bytes - 1));
  for (HostCluster c = geometry_.cluster_of(at); c <= last; ++c)
    suspicious = suspicious || filter_.may_hold(c);
  if (!suspicious) [[likely]]
    co_return Status();
  Mutex::Lock lock = co_await metadata_.lock();
  const char* what = metadata_at(at, bytes);
  if (what == nullptr) co_return Status();
  signal_corruption(fmt::format("Preventing invalid write on metadata (overlaps with {})", what),
                    at, bytes, true);
  co_return Status::error(EIO);
}

void Image::free_later(HostCluster first, uint64_t clusters, FreedBy by) {
  if (clusters == 0) return;
  std::lock_guard lock(freed_mutex_);
  freed_clusters_ += clusters;
  if (!freed_.empty()) {
    Freed& last = freed_.back();
    if (last.by == by && last.first + last.clusters == first) {
      last.clusters += clusters;
      return;
    }
  }
  freed_.push_back({first, clusters, by});
}

void Image::free_entry(const L2Entry& old, FreedBy by) {
  if (old.is_compressed()) return free_extent(old.extent(geometry_), by);
  if (has_data_file() || old.offset().value == 0) return;
  if (!geometry_.is_cluster_aligned(old.offset().value)) return;
  free_later(geometry_.cluster_of(old.offset()), 1, by);
}

void Image::free_extent(CompressedExtent extent, FreedBy by) {
  HostCluster first = geometry_.cluster_of(extent.offset);
  HostCluster last = geometry_.cluster_of(extent.offset + (extent.bytes - 1));
  free_later(first, last - first + 1, by);
}

void Image::signal_corruption(std::string message, std::optional<HostOffset> at, uint64_t bytes,
                              bool fatal) {
  if (fatal && unusable_.exchange(true)) return;
  boost::json::object data{
      {"device", ""}, {"node-name", node_.name()}, {"msg", message}, {"fatal", fatal}};
  if (at) data["offset"] = at->value;
  if (bytes != 0) data["size"] = bytes;
  node_.layer().emit("BLOCK_IMAGE_CORRUPTED", std::move(data));
}

void Image::signal_invalid(const Invalid& invalid, GuestOffset at) {
  GuestCluster cluster = geometry_.cluster_of(at);
  HostOffset table = l1_.load(geometry_.l1_index(at)).offset();
  uint64_t index = geometry_.l2_index(cluster).value;
  L2Entry entry{invalid.entry, 0};
  std::string message;
  if (entry.is_compressed() && has_data_file())
    message = "Compressed cluster entry found in image with external data file";
  else if (!geometry_.is_cluster_aligned(entry.offset().value))
    message = fmt::format("Cluster allocation offset {:#x} unaligned", entry.offset().value);
  else if (header_.version < 3)
    message = "Zero cluster entry found in pre-v3 image";
  else
    message = "Invalid cluster entry found";
  signal_corruption(
      fmt::format("{} (L2 offset: {:#x}, L2 index: {:#x})", message, table.value, index),
      std::nullopt, 0, true);
}

}  // namespace strata::qcow2
