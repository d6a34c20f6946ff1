// SPDX-License-Identifier: GPL-2.0-or-later
//
// What every change of the mapping goes through.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "block/base/error.h"
#include "block/graph/layer.h"
#include "block/io/debug_event.h"
#include "block/qcow2/hex.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {

Task<Status> Image::begin_change(Changing& changing, SliceIndex slice) {
  Result<L2Cache::Pin> pin = co_await pin_slice(slice);
  if (!pin) co_return pin.status();
  changing.slice = std::move(*pin);
  changing.lock = co_await metadata_.lock();
  co_return co_await prepare_table(l2_.l1_index(slice));
}

// Gives the L1 entry a table that nobody else refers to: a new one, or a copy of the one it has.
Task<Status> Image::prepare_table(L1Index index) {
  L1Entry old = l1_.load(index);
  if (old.offset().value != 0 && old.copied()) co_return Status();
  if (index.value >= l1_.size()) co_return Status::error(EFBIG);
  Result<HostCluster> cluster = co_await allocate_clusters(1, "L2 table");
  if (!cluster) co_return cluster.status();
  Allocation allocation(*this, *cluster, 1);
  HostOffset place = geometry_.offset_of(*cluster);
  refcounts_.take_fresh(*cluster, 1);
  Status status;
  co_await io::debug_event(file_.edge(), qapi::BlkdebugEvent::l2_alloc_write);
  if (old.offset().value != 0) {
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
Task<Result<HostCluster>> Image::allocate_clusters(uint64_t clusters, const char* what_for) {
  co_await io::debug_event(file_.edge(), qapi::BlkdebugEvent::cluster_alloc);
  Result<HostCluster> first = co_await refcounts_.allocate(clusters);
  if (!first) {
    signal_refcounts();
    co_return first;
  }
  Status status = check_allocated(*first, clusters, what_for);
  if (!status.ok()) co_return status;
  co_return first;
}

Task<Result<HostCluster>> Image::allocate_behind(HostCluster behind, uint64_t& clusters) {
  if (behind.value == 0) co_return co_await allocate_clusters(clusters);
  Result<uint64_t> got = co_await refcounts_.allocate_at(behind, clusters);
  if (!got) {
    signal_refcounts();
    co_return got.status();
  }
  if (*got == 0) co_return co_await allocate_clusters(clusters);
  clusters = *got;
  co_await io::debug_event(file_.edge(), qapi::BlkdebugEvent::cluster_alloc);
  Status status = check_allocated(behind, clusters, nullptr);
  if (!status.ok()) co_return status;
  co_return behind;
}

Status Image::check_allocated(HostCluster first, uint64_t clusters, const char* what_for) {
  HostOffset at = geometry_.offset_of(first);
  if (at.value == 0 && what_for != nullptr) {
    signal_corruption(fmt::format("Preventing invalid allocation of {} at offset 0", what_for),
                      std::nullopt, 0, true);
    return Status::error(EIO);
  }
  uint64_t bytes = clusters * geometry_.cluster_size();
  if (const char* what = metadata_at(at, bytes)) {
    signal_corruption(fmt::format("Preventing invalid write on metadata (overlaps with {})", what),
                      at, bytes, true);
    return Status::error(EIO);
  }
  return Status();
}

// The first kind, in an order of its own, of what the user wants guarded.
const char* Image::metadata_at(HostOffset at, uint64_t bytes) const {
  uint64_t cluster = geometry_.cluster_size();
  ByteRange range = ByteRange{at.value, bytes}.aligned_out(cluster);
  auto covers = [&](Guard guard, uint64_t offset, uint64_t length) {
    return settings_.guards.has(guard) && length != 0 && range.overlaps({offset, length});
  };
  if (covers(Guard::main_header, 0, cluster)) return "qcow2_header";
  if (covers(Guard::active_l1, header_.l1_table_offset, l1_.size() * 8)) return "active L1 table";
  if (covers(Guard::refcount_table, refcounts_.table_offset().value,
             refcounts_.table_clusters() * cluster))
    return "refcount table";
  if (covers(Guard::snapshot_table, header_.snapshots_offset, snapshot_table_bytes_))
    return "snapshot table";
  for (const Snapshot& snapshot : snapshots_) {
    if (covers(Guard::inactive_l1, snapshot.l1_offset.value, uint64_t{snapshot.l1_size} * 8))
      return "inactive L1 table";
  }
  if (extensions_.bitmaps &&
      covers(Guard::bitmap_directory, extensions_.bitmaps->directory_offset.value,
             extensions_.bitmaps->directory_size))
    return "bitmap directory";
  if (!may_hold_metadata(at, bytes)) return nullptr;
  for (size_t i = 0; settings_.guards.has(Guard::active_l2) && i < l1_.size(); ++i) {
    HostOffset table = l1_.load(L1Index(i)).offset();
    if (table.value != 0 && covers(Guard::active_l2, table.value, cluster))
      return "active L2 table";
  }
  for (uint64_t entry : refcounts_.table()) {
    HostOffset block = RefcountTableEntry{entry}.offset();
    if (block.value != 0 && covers(Guard::refcount_block, block.value, cluster))
      return "refcount block";
  }
  for (size_t i = 0; inactive_l2_ && i < inactive_l2_->size(); ++i) {
    HostCluster table = (*inactive_l2_)[i];
    if (covers(Guard::inactive_l2, geometry_.offset_of(table).value, cluster))
      return "inactive L2 table";
  }
  return nullptr;
}

Task<Status> Image::load_inactive_tables() {
  if (!settings_.guards.has(Guard::inactive_l2) || inactive_l2_) co_return Status();
  std::vector<HostCluster> tables;
  for (size_t i = 0; i < snapshots_.size(); ++i) {
    Result<std::vector<std::byte>> l1 = Status::error(EIO);
    try {
      l1 = co_await read_l1(i);
    } catch (const Error& error) {
      l1 = Status::error(error.error_number());
    }
    if (!l1) co_return l1.status();
    for (size_t at = 0; at + 8 <= l1->size(); at += 8) {
      HostOffset table = L1Entry(load_be<uint64_t>(*l1, at)).offset();
      if (table.value != 0) tables.push_back(geometry_.cluster_of(table));
    }
  }
  std::ranges::sort(tables, {}, &HostCluster::value);
  tables.erase(std::unique(tables.begin(), tables.end()), tables.end());
  // Those that are active as well are guarded as such, or rightly written to when they no longer
  // are shared.
  for (HostCluster table : tables) filter_.add(table);
  inactive_l2_ = std::move(tables);
  co_return Status();
}

void Image::forget_inactive_tables() noexcept {
  inactive_l2_.reset();
  announced_ = false;
}

bool Image::may_hold_metadata(HostOffset at, uint64_t bytes) const noexcept {
  if (has_data_file()) return false;
  HostCluster last = geometry_.cluster_of(at + (bytes - 1));
  for (HostCluster c = geometry_.cluster_of(at); c <= last; ++c) {
    if (filter_.may_hold(c)) return true;
  }
  return false;
}

// Data that is written where the L2 table says it is. Cheap where nothing is suspicious.
Task<Status> Image::check_in_place(HostOffset at, uint64_t bytes) {
  if (!may_hold_metadata(at, bytes)) co_return Status();
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
  if (by == FreedBy::request) discarded_clusters_ += clusters;
  if (!freed_.empty()) {
    Freed& last = freed_.back();
    if (last.by == by && last.first + last.clusters == first) {
      last.clusters += clusters;
      return;
    }
  }
  freed_.push_back({first, clusters, by});
}

Task<bool> Image::has_unwritten_data() {
  Unwritten known = unwritten_data_.load(std::memory_order_relaxed);
  if (known == Unwritten::unknown) {
    Result<bool> found = co_await find_unwritten_data();
    known = found && *found ? Unwritten::yes : Unwritten::no;
    unwritten_data_.store(known, std::memory_order_relaxed);
  }
  co_return known == Unwritten::yes;
}

Task<Result<bool>> Image::find_unwritten_data() {
  std::optional<uint64_t> allocated = file_.edge().node().driver().allocated_size();
  if (!allocated) co_return false;
  const uint64_t there = *allocated >> geometry_.cluster_bits();
  const uint64_t clearly_more = std::max(there * 10 / 9, there + 2);
  HostCluster end(geometry_.clusters_for(file_.length()));
  {
    Mutex::Lock lock = co_await metadata_.lock();
    if (refcounts_.table().empty()) {  // nobody writes
      Status status = co_await load_refcounts();
      if (!status.ok()) co_return status;
    }
    // What lies behind all that is counted is a file's hole, however long.
    end = std::min(end, geometry_.first_cluster(TableIndex(refcounts_.table().size())));
  }
  uint64_t used = 0;
  for (HostCluster at; at < end && used < clearly_more;) {
    Mutex::Lock lock = co_await metadata_.lock();
    HostCluster next = std::min(end, geometry_.first_cluster(geometry_.table_index(at) + 1));
    Result<uint64_t> here = co_await refcounts_.count_used(at, next - at, clearly_more - used);
    if (!here) co_return here.status();
    used += *here;
    at = next;
  }
  co_return used >= clearly_more;
}

void Image::leak_freed() noexcept {
  std::lock_guard lock(freed_mutex_);
  freed_.clear();
  freed_clusters_ = discarded_clusters_ = 0;
}

void Image::free_entry(const L2Entry& old, FreedBy by) {
  if (old.is_compressed()) return free_extent(old.extent(geometry_), by);
  if (has_data_file() || old.offset().value == 0) return;
  if (!geometry_.is_cluster_aligned(old.offset().value)) return free_entry_unaligned(old.offset());
  free_later(geometry_.cluster_of(old.offset()), 1, by);
}

void Image::free_extent(CompressedExtent extent, FreedBy by) {
  HostCluster first = geometry_.cluster_of(extent.offset);
  HostCluster last = geometry_.cluster_of(extent.offset + (extent.bytes - 1));
  free_later(first, last - first + 1, by);
}

void Image::free_entry_unaligned(HostOffset at) {
  signal_corruption(fmt::format("Cannot free unaligned cluster {}", hex(at.value)), std::nullopt, 0,
                    false);
}

// Of what is not fatal, only the first is told. What is fatal makes an image that could be written
// to unusable; what is only read is no worse than it was.
void Image::signal_corruption(std::string message, std::optional<HostOffset> at, uint64_t bytes,
                              bool fatal) {
  fatal = fatal && node_.is_writable();
  if (fatal && unusable_.exchange(true)) return;
  if (signalled_.exchange(true) && !fatal) return;
  fmt::print(stderr, "qcow2: {}: {}; further {}corruption events will be suppressed\n",
             fatal ? "Marking image as corrupt" : "Image is corrupt", message,
             fatal ? "" : "non-fatal ");
  boost::json::object data{
      {"device", ""}, {"node-name", node_.name()}, {"msg", message}, {"fatal", fatal}};
  if (at) data["offset"] = at->value;
  if (bytes != 0) data["size"] = bytes;
  node_.layer().emit("BLOCK_IMAGE_CORRUPTED", std::move(data));
}

void Image::signal_refcounts() {
  if (!refcounts_.corruption().empty())
    signal_corruption(refcounts_.corruption(), std::nullopt, 0, true);
}

Status Image::refuse_entry(const Invalid& invalid, GuestOffset at) {
  GuestCluster cluster = geometry_.cluster_of(at);
  HostOffset table = l1_.load(geometry_.l1_index(at)).offset();
  std::string place = fmt::format("L2 offset: {}, L2 index: {}", hex(table.value),
                                  hex(geometry_.l2_index(cluster).value));
  L2Entry entry{invalid.entry, 0};
  std::string message;
  if (entry.is_compressed() && has_data_file())
    message =
        fmt::format("Compressed cluster entry found in image with external data file ({})", place);
  else if (!geometry_.is_cluster_aligned(entry.offset().value))
    message = fmt::format("Cluster allocation offset {} unaligned ({})", hex(entry.offset().value),
                          place);
  else if (header_.version < 3 && (entry.raw & kZeroFlag) != 0)
    message = fmt::format("Zero cluster entry found in pre-v3 image ({})", place);
  else if (has_data_file() && entry.offset().value != geometry_.offset_of(cluster).value)
    message = fmt::format(
        "External data file host cluster offset {} does not match guest cluster offset: {}, L2 "
        "index: {})",
        hex(entry.offset().value), hex(geometry_.offset_of(cluster).value),
        hex(geometry_.l2_index(cluster).value));
  else
    message = fmt::format("Invalid cluster entry found  ({})", place);
  signal_corruption(std::move(message), std::nullopt, 0, true);
  return Status::error(EIO);
}

// Where somebody was about to write.
void Image::signal_misplaced(const L2Entry& entry, GuestOffset at) {
  bool zero = entry.kind(geometry_, has_data_file()) == ClusterKind::zero_allocated;
  signal_corruption(
      fmt::format("{} cluster offset {} unaligned (guest offset: {})",
                  zero ? "Preallocated zero" : "Data", hex(entry.offset().value), hex(at.value)),
      std::nullopt, 0, true);
}

}  // namespace strata::qcow2
