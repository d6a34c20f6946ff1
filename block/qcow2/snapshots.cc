// SPDX-License-Identifier: GPL-2.0-or-later
//
// Internal snapshots: an L1 table each, whose tables and clusters are shared with the active one.
//
// The order of every change: refcounts go up; the new table is there; the header points to it;
// refcounts go down. So a power cut leaks at worst.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <set>

#include "block/base/error.h"
#include "block/io/debug_event.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {
namespace {

void check(Status status, const char* what) {
  if (!status.ok()) throw Error::from_errno(status.error_number(), "{}", what);
}

// What could not be freed is leaked: the line says that to whoever runs the program, as QEMU's
// does.
void check_freed(Status status) {
  if (status.ok()) return;
  std::string why = Error::describe_errno(status.error_number());
  fmt::print(stderr, "qcow2_free_clusters failed: {}\n", why);
  check(status, "Failed to free the cluster and L1 table");
}

}  // namespace

std::optional<size_t> Image::find_snapshot(const std::string& any) const {
  for (size_t i = 0; i < snapshots_.size(); ++i) {
    if (snapshots_[i].id == any) return i;
  }
  for (size_t i = 0; i < snapshots_.size(); ++i) {
    if (snapshots_[i].name == any) return i;
  }
  return std::nullopt;
}

void Image::check_snapshot(size_t index) const {
  const Snapshot& snapshot = snapshots_[index];
  if (auto error = check_table(geometry_, snapshot.l1_offset.value, snapshot.l1_size, 8,
                               kMaxL1Bytes, "Snapshot L1 table"))
    throw Error::from_text(error->text, error->error);
}

Task<Result<std::vector<std::byte>>> Image::read_l1(size_t index) {
  check_snapshot(index);
  const Snapshot& snapshot = snapshots_[index];
  uint64_t bytes = uint64_t{snapshot.l1_size} * 8;
  std::vector<std::byte> table(file_.bytes_there(snapshot.l1_offset, bytes) / 8 * 8);
  Status status = co_await file_.read(snapshot.l1_offset, table);
  if (!status.ok()) co_return status;
  co_return table;
}

namespace {

// Clusters in a row, so that few runs tell of many.
class Runs {
 public:
  void add(HostCluster first, uint64_t clusters) {
    if (!runs_.empty() && runs_.back().first + runs_.back().second == first)
      runs_.back().second += clusters;
    else
      runs_.emplace_back(first, clusters);
  }
  const std::vector<std::pair<HostCluster, uint64_t>>& all() const noexcept { return runs_; }

 private:
  std::vector<std::pair<HostCluster, uint64_t>> runs_;
};

// EIO: an entry makes no sense.
Status add_entries(const Geometry& geometry, ConstBytes table, Runs& runs) {
  for (size_t i = 0; i < table.size(); i += geometry.l2_entry_size()) {
    L2Entry entry{load_be<uint64_t>(table, i), 0};
    if (entry.is_compressed()) {
      CompressedExtent extent = entry.extent(geometry);
      HostCluster first = geometry.cluster_of(extent.offset);
      HostCluster last = geometry.cluster_of(extent.offset + (extent.bytes - 1));
      runs.add(first, last - first + 1);
    } else if (entry.offset().value != 0) {
      if (!geometry.is_cluster_aligned(entry.offset().value)) return Status::error(EIO);
      runs.add(geometry.cluster_of(entry.offset()), 1);
    }
  }
  return Status();
}

}  // namespace

void Image::add_uses(TableUses& uses, ConstBytes l1) {
  for (size_t at = 0; at + 8 <= l1.size(); at += 8) {
    HostOffset place = L1Entry(load_be<uint64_t>(l1, at)).offset();
    if (place.value != 0) ++uses[place.value];
  }
}

Image::TableUses Image::uses_of_active_tables() const {
  TableUses uses;
  for (size_t i = 0; i < l1_.size(); ++i) {
    HostOffset place = l1_.load(L1Index(i)).offset();
    if (place.value != 0) ++uses[place.value];
  }
  return uses;
}

// An L2 table, as far as it is in the file: what lies behind is empty.
Task<Status> Image::read_table(HostOffset table, std::vector<std::byte>& entries) {
  if (!geometry_.is_cluster_aligned(table.value)) return Task<Status>::ready(Status::error(EIO));
  entries.resize(align_up(file_.bytes_there(table, geometry_.cluster_size()), 16));
  return file_.read(table, entries);
}

// What is behind the end of the file is not there, and counts for it could be anywhere. EFBIG: no
// refcount table reaches that far; EAGAIN, which is QEMU's answer, if one could.
Status Image::check_referred(HostCluster first, uint64_t clusters) const noexcept {
  uint64_t end = geometry_.clusters_for(file_.length()) + 1;
  if (first.value + clusters <= end) return Status();
  uint64_t most = kMaxRefcountTableBytes / 8 * geometry_.refcount_block_entries();
  return Status::error(first.value + clusters > most ? EFBIG : EAGAIN);
}

// All that an L2 table refers to, and the table itself, `times` more or less.
Task<Status> Image::change_table_refcounts(HostOffset table, uint64_t times, bool up) {
  std::vector<std::byte> entries;
  Status status = co_await read_table(table, entries);
  Runs runs;
  runs.add(geometry_.cluster_of(table), 1);
  if (status.ok()) status = add_entries(geometry_, entries, runs);
  if (!status.ok()) co_return status;
  if (!up) {
    for (uint64_t i = 0; i < times; ++i) {
      for (auto [first, clusters] : runs.all()) free_later(first, clusters, FreedBy::snapshot);
    }
    co_return Status();
  }
  for (auto [first, clusters] : runs.all()) {
    status = check_referred(first, clusters);
    if (!status.ok()) co_return status;
  }
  Mutex::Lock lock = co_await metadata_.lock();
  for (size_t i = 0; i < runs.all().size(); ++i) {
    status = co_await refcounts_.increase(runs.all()[i].first, runs.all()[i].second, times);
    if (status.ok()) continue;
    while (i-- > 0)
      (void)co_await refcounts_.decrease(runs.all()[i].first, runs.all()[i].second, times);
    // More references than a refcount can tell of.
    co_return status.error_number() == ERANGE ? Status::error(EINVAL) : status;
  }
  co_return Status();
}

// All that an L1 table refers to, once more or once less. What was raised before an error is
// lowered again. An L2 table that is referred to several times is read once.
Task<Status> Image::change_refcounts(const TableUses& tables, bool up) {
  for (auto it = tables.begin(); it != tables.end(); ++it) {
    Status status = co_await change_table_refcounts(HostOffset(it->first), it->second, up);
    if (status.ok() && !up && freed_clusters_.load(std::memory_order_relaxed) > kMostFreedAtOnce)
      status = co_await write_back();
    if (status.ok()) continue;
    for (auto done = tables.begin(); up && done != it; ++done)
      (void)co_await change_table_refcounts(HostOffset(done->first), done->second, false);
    co_return status;
  }
  co_return Status();
}

// The active table to another place, where it has so many entries.
Task<Status> Image::write_l1(HostOffset at, uint64_t entries) {
  constexpr uint64_t kStep = 8192;
  Status status;
  for (uint64_t first = 0; first < l1_.size() && status.ok(); first += kStep)
    status = co_await file_.write(at + first * 8,
                                  l1_.encode(first, std::min<uint64_t>(kStep, l1_.size() - first)));
  if (status.ok() && entries > l1_.size())
    status = co_await file_.write_zeroes(at + l1_.size() * 8, (entries - l1_.size()) * 8);
  co_return status;
}

// Makes bit 63 of the active tables say what the refcounts say. Changed entries are dirty.
Task<Status> Image::set_copied_flags() {
  if (has_data_file()) co_return Status();
  std::set<uint64_t> seen;
  std::vector<std::byte> table;
  for (size_t i = 0; i < l1_.size(); ++i) {
    L1Entry entry = l1_.load(L1Index(i));
    if (entry.offset().value == 0) continue;
    table.clear();
    Status status;
    if (seen.insert(entry.offset().value).second)
      status = co_await read_table(entry.offset(), table);
    if (!status.ok()) co_return status;
    bool changed = false;
    {
      Mutex::Lock lock = co_await metadata_.lock();
      for (size_t at = 0; at < table.size(); at += geometry_.l2_entry_size()) {
        L2Entry old{load_be<uint64_t>(table, at), 0};
        if (old.is_compressed() || old.offset().value == 0) continue;
        Result<uint64_t> count = co_await refcounts_.get(geometry_.cluster_of(old.offset()));
        if (!count) co_return count.status();
        if ((*count == 1) == old.copied()) continue;
        store_be<uint64_t>(table, at, old.raw ^ kCopiedFlag);
        changed = true;
      }
      Result<uint64_t> count = co_await refcounts_.get(geometry_.cluster_of(entry.offset()));
      if (!count) co_return count.status();
      if ((*count == 1) != entry.copied())
        l1_.store(L1Index(i), L1Entry::of(entry.offset(), *count == 1));
    }
    if (!changed) continue;
    status = co_await file_.write(entry.offset(), table);
    if (!status.ok()) co_return status;
  }
  l2_.clear();
  co_return co_await file_.flush();
}

// Writes the table to a new place and makes the header point to it.
Task<Status> Image::store_snapshots(std::vector<Snapshot> snapshots) {
  std::vector<std::byte> bytes;
  for (const Snapshot& snapshot : snapshots) append_snapshot(bytes, snapshot);
  if (bytes.size() > kMaxSnapshotTableBytes || snapshots.size() > kMaxSnapshots)
    co_return Status::error(EFBIG);
  uint64_t clusters = geometry_.clusters_for(bytes.size());
  HostCluster place;
  if (clusters != 0) {
    Mutex::Lock lock = co_await metadata_.lock();
    Result<HostCluster> first = co_await allocate_clusters(clusters);
    if (!first) co_return first.status();
    refcounts_.take_fresh(*first, clusters);
    place = *first;
  }
  Allocation allocation(*this, place, clusters);
  Status status;
  if (clusters != 0) status = co_await file_.write(geometry_.offset_of(place), bytes);
  if (status.ok()) status = co_await write_back();
  if (status.ok()) status = co_await flush_files();
  if (!status.ok()) co_return status;
  Mutex::Lock lock = co_await writing_back_.lock();
  Header before = header_;
  header_.snapshots_offset = geometry_.offset_of(place).value;
  header_.nb_snapshots = static_cast<uint32_t>(snapshots.size());
  status = co_await write_header();
  allocation.linked();  // if the header could not be written, it may be there nevertheless
  if (!status.ok()) {
    header_ = before;
    co_return status;
  }
  free_later(geometry_.cluster_of(HostOffset(before.snapshots_offset)),
             geometry_.clusters_for(snapshot_table_bytes_), FreedBy::other);
  snapshots_ = std::move(snapshots);
  snapshot_table_bytes_ = bytes.size();
  forget_inactive_tables();
  co_return Status();
}

Task<Status> Image::complete_snapshots() {
  constexpr uint32_t kDemanded = 16;  // the sizes of the state and of the disk
  bool complete = std::all_of(snapshots_.begin(), snapshots_.end(), [](const Snapshot& snapshot) {
    return snapshot.extra_data_size >= kDemanded;
  });
  if (complete) co_return Status();
  Status status = co_await before_first_write();
  if (status.ok()) status = co_await store_snapshots(snapshots_);
  co_return status;
}

// While refcounts and the flags that follow from them change together, the image is marked as not
// closed cleanly: whoever opens it after a power cut makes them agree. Nothing else depends on it.
Task<Status> Image::set_dirty_bit(bool on) {
  if (header_.has(kIncompatibleDirty) == on) co_return Status();
  Mutex::Lock lock = co_await writing_back_.lock();
  header_.incompatible ^= kIncompatibleDirty;
  Status status = co_await write_header();
  // Where it could not be written it may be set: that does no harm.
  if (!status.ok()) header_.incompatible |= kIncompatibleDirty;
  co_return status;
}

Task<Status> Image::begin_snapshot_change() {
  Status status = co_await before_first_write();
  if (status.ok()) status = co_await settle();
  if (status.ok()) status = co_await mend_flags();
  if (!status.ok()) co_return status;
  dirty_before_ = header_.has(kIncompatibleDirty);
  flags_in_doubt_ = true;
  co_return co_await set_dirty_bit(true);
}

// Everything agrees again.
Task<Status> Image::end_snapshot_change() {
  Status status = co_await settle();
  if (status.ok() && !dirty_before_) status = co_await set_dirty_bit(false);
  if (status.ok()) flags_in_doubt_ = false;
  co_return status;
}

Task<Status> Image::mend_flags() {
  if (!flags_in_doubt_) co_return Status();
  Status status = co_await settle();
  if (status.ok()) status = co_await set_copied_flags();
  if (status.ok()) status = co_await end_snapshot_change();
  co_return status;
}

Task<void> Image::create_snapshot(Snapshot snapshot) {
  if (has_data_file()) throw Error::from_errno(ENOTSUP, "Could not create snapshot");
  if (snapshots_.size() >= kMaxSnapshots)
    throw Error::from_errno(EFBIG, "Could not create snapshot");
  check(co_await begin_snapshot_change(), "Could not create snapshot");
  uint64_t next_id = 1;
  for (const Snapshot& other : snapshots_)
    next_id = std::max<uint64_t>(next_id, std::strtoull(other.id.c_str(), nullptr, 10) + 1);
  if (snapshot.id.empty()) snapshot.id = std::to_string(next_id);
  snapshot.disk_size = size();
  snapshot.l1_size = static_cast<uint32_t>(l1_.size());
  const TableUses uses = uses_of_active_tables();
  uint64_t clusters = geometry_.clusters_for(l1_.size() * 8);
  HostCluster place;
  if (clusters != 0) {
    Mutex::Lock lock = co_await metadata_.lock();
    Result<HostCluster> first = co_await allocate_clusters(clusters);
    if (!first) check(first.status(), "Could not create snapshot");
    refcounts_.take_fresh(*first, clusters);
    place = *first;
  }
  Allocation allocation(*this, place, clusters);
  snapshot.l1_offset = geometry_.offset_of(place);
  check(co_await write_l1(snapshot.l1_offset, l1_.size()), "Could not create snapshot");
  Status status = co_await change_refcounts(uses, true);
  // More references than can be counted: what was allocated for the snapshot stays, as in QEMU.
  if (status.error_number() == EINVAL) allocation.linked();
  check(status, "Could not create snapshot");
  status = co_await write_back();
  // From here on nobody writes to what is shared: the flags are gone before the snapshot is there.
  if (status.ok()) status = co_await set_copied_flags();
  if (status.ok()) status = co_await write_back();
  std::vector<Snapshot> all = snapshots_;
  all.push_back(std::move(snapshot));
  if (status.ok()) status = co_await store_snapshots(std::move(all));
  if (!status.ok()) {
    if ((co_await change_refcounts(uses, false)).ok()) (void)co_await mend_flags();
    check(status, "Could not create snapshot");
  }
  allocation.linked();
  check(co_await end_snapshot_change(), "Could not create snapshot");
}

Task<void> Image::delete_snapshot(size_t index) {
  Snapshot gone = snapshots_[index];
  Result<std::vector<std::byte>> table = co_await read_l1(index);
  if (!table) check(table.status(), "Failed to read l1 table for snapshot");
  TableUses uses;
  add_uses(uses, *table);
  check(co_await begin_snapshot_change(), "Failed to remove snapshot from snapshot list");
  std::vector<Snapshot> rest = snapshots_;
  rest.erase(rest.begin() + static_cast<long>(index));
  check(co_await store_snapshots(std::move(rest)), "Failed to remove snapshot from snapshot list");
  co_await io::debug_event(file_.edge(), qapi::BlkdebugEvent::cluster_free);
  Status freed = co_await change_refcounts(uses, false);
  if (!freed.ok()) leak_freed();
  check_freed(freed);
  free_later(geometry_.cluster_of(gone.l1_offset),
             geometry_.clusters_for(uint64_t{gone.l1_size} * 8), FreedBy::snapshot);
  check_freed(co_await settle());
  check(co_await set_copied_flags(), "Failed to update snapshot status in disk");
  check(co_await end_snapshot_change(), "Failed to update snapshot status in disk");
}

// The snapshot's table becomes a second reference to what it refers to, in the place of the active
// one. The active table is replaced by a new one, so that the header alone decides which it is.
Task<void> Image::apply_snapshot(size_t index) {
  const Snapshot snapshot = snapshots_[index];
  if (!node_.bitmaps().empty()) throw Error("Device has active dirty bitmaps");
  Result<std::vector<std::byte>> wanted = co_await read_l1(index);
  if (!wanted) check(wanted.status(), "Failed to read l1 table for snapshot");
  if (snapshot.disk_size > kMaxLength ||
      geometry_.l1_entries_for(snapshot.disk_size) * 8 > kMaxL1Bytes)
    throw Error::from_errno(EFBIG, "Could not apply snapshot");
  check(co_await begin_snapshot_change(), "Could not apply snapshot");
  const TableUses old = uses_of_active_tables();
  std::vector<std::byte>& table = *wanted;
  uint64_t entries =
      std::max({table.size() / 8, l1_.size(), geometry_.l1_entries_for(snapshot.disk_size)});
  for (size_t at = 0; at < table.size(); at += 8)
    store_be<uint64_t>(table, at, load_be<uint64_t>(table, at) & ~kCopiedFlag);
  TableUses uses;
  add_uses(uses, table);
  uint64_t clusters = geometry_.clusters_for(entries * 8);
  Mutex::Lock lock = co_await metadata_.lock();
  Result<HostCluster> place = co_await allocate_clusters(clusters);
  if (!place) check(place.status(), "Could not apply snapshot");
  refcounts_.take_fresh(*place, clusters);
  lock.unlock();
  Allocation allocation(*this, *place, clusters);
  check(co_await change_refcounts(uses, true), "Could not apply snapshot");
  HostOffset at = geometry_.offset_of(*place);
  Status status = co_await write_back();
  if (status.ok()) status = co_await file_.write(at, table);
  if (status.ok())
    status = co_await file_.write_zeroes(at + table.size(), entries * 8 - table.size());
  if (status.ok()) status = co_await file_.flush();
  if (!status.ok()) {
    (void)co_await change_refcounts(uses, false);
    check(status, "Could not apply snapshot");
  }
  Header before = header_;
  {
    Mutex::Lock writing = co_await writing_back_.lock();
    header_.l1_table_offset = at.value;
    header_.l1_size = static_cast<uint32_t>(entries);
    header_.size = snapshot.disk_size;
    status = co_await write_header();
    allocation.linked();
    if (!status.ok()) header_ = before;
  }
  check(status, "Could not apply snapshot");
  size_ = snapshot.disk_size;
  l1_.resize(entries);
  l1_.fill(0, table);
  l2_.clear();
  for (uint64_t i = 0; i < clusters; ++i) filter_.add(*place + i);
  check(co_await change_refcounts(old, false), "Could not apply snapshot");
  free_later(geometry_.cluster_of(HostOffset(before.l1_table_offset)),
             geometry_.clusters_for(uint64_t{before.l1_size} * 8), FreedBy::other);
  check(co_await settle(), "Could not apply snapshot");
  check(co_await set_copied_flags(), "Could not apply snapshot");
  check(co_await end_snapshot_change(), "Could not apply snapshot");
}

// The snapshot takes the place of the disk, in memory alone.
Task<void> Image::show_snapshot(size_t index) {
  if (node_.is_writable()) throw Error("Device is not readonly");
  const Snapshot& snapshot = snapshots_[index];
  Result<std::vector<std::byte>> table = co_await read_l1(index);
  if (!table) check(table.status(), "Failed to read l1 table for snapshot");
  uint64_t entries = geometry_.l1_entries_for(snapshot.disk_size);
  if (snapshot.disk_size > kMaxLength || entries * 8 > kMaxL1Bytes)
    throw Error::from_errno(EFBIG, "Snapshot is too large");
  l1_.resize(std::max<uint64_t>(table->size() / 8, entries));
  l1_.fill(0, *table);
  l2_.clear();
  size_ = snapshot.disk_size;
}

}  // namespace strata::qcow2
