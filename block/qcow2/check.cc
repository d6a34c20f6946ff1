// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "block/base/error.h"

namespace strata::qcow2 {

// Counts what is referred to, cluster by cluster, and compares.
//
// An L2 table is read once however many L1 entries refer to it: first those are counted, then the
// table's own references weigh as much. So the work is bounded by the file, not by what it claims.
class Check {
 public:
  Check(Image& image, CheckFix fix, CheckReport report)
      : image_(image),
        geometry_(image.geometry_),
        fix_(fix),
        report_(std::move(report)),
        clusters_(geometry_.clusters_for(image.file_.length())),
        counts_(clusters_ + 1),
        tables_(clusters_ + 1) {}

  Task<Result<CheckResult>> run();

 private:
  static constexpr uint16_t kMany = UINT16_MAX;

  void say(std::string line) const {
    if (report_) report_(line);
  }
  void error(std::string line) {
    ++result_.corruptions;
    say(std::move(line));
  }
  bool count(HostOffset at, uint64_t bytes, uint64_t times = 1);
  void count_l1_entry(L1Entry entry);
  Task<Status> count_snapshots();
  Task<Status> count_snapshot(const Snapshot& snapshot);
  Task<Status> count_tables();
  Task<Status> count_table(HostCluster table, bool active);
  void count_entry(const L2Entry& entry, uint64_t times, bool active);
  void count_placed(const L2Entry& entry, uint64_t times, bool active);
  bool bitmap_is_sound(const L2Entry& entry);
  Task<Status> count_bitmaps();
  Task<Status> count_refcounts();
  Task<Status> compare();
  Task<Status> compare_one(HostCluster cluster);
  Task<Status> rebuild();
  Task<Status> count_everything(bool refcounts);
  Task<Status> check_copied();
  Task<Status> check_copied_table(L1Index index, HostOffset table);

  Image& image_;
  const Geometry& geometry_;
  CheckFix fix_;
  CheckReport report_;
  uint64_t clusters_;
  std::vector<uint16_t> counts_;
  std::vector<uint16_t> tables_;  // how many L1 entries refer to an L2 table there
  CheckResult result_;
  HostOffset next_contiguous_;
  bool needs_rebuild_ = false;
};

bool Check::count(HostOffset at, uint64_t bytes, uint64_t times) {
  if (bytes == 0) return true;
  if (at.value > INT64_MAX - bytes) {
    error(fmt::format("ERROR: overflow cluster offset={:#x}", at.value));
    return false;
  }
  uint64_t first = geometry_.cluster_of(at).value;
  uint64_t last = geometry_.cluster_of(at + (bytes - 1)).value;
  if (last > clusters_) {
    error(
        fmt::format("ERROR: counting reference for region exceeding the end of the file by one "
                    "cluster or more: offset {:#x} size {:#x}",
                    at.value, bytes));
    return false;
  }
  for (uint64_t cluster = first; cluster <= last; ++cluster)
    counts_[cluster] = static_cast<uint16_t>(std::min<uint64_t>(kMany, counts_[cluster] + times));
  return true;
}

void Check::count_l1_entry(L1Entry entry) {
  if (entry.raw == 0) return;
  if (entry.has_reserved_bits())
    error(fmt::format("ERROR found L1 entry with reserved bits set: {:x}", entry.raw));
  HostOffset table = entry.offset();
  if (table.value == 0) return;
  if (!geometry_.is_cluster_aligned(table.value)) {
    error(fmt::format("ERROR l2_offset={:x}: Table is not cluster aligned; L1 entry corrupted",
                      table.value));
    return;
  }
  if (!count(table, geometry_.cluster_size())) return;
  uint16_t& times = tables_[geometry_.cluster_of(table).value];
  if (times < kMany) ++times;
}

Task<Status> Check::count_snapshots() {
  if (!image_.snapshots_.empty() && image_.has_data_file()) {
    error(fmt::format("ERROR {} snapshots in image with data file", image_.snapshots_.size()));
    co_return Status();
  }
  for (const Snapshot& snapshot : image_.snapshots_) {
    Status status = co_await count_snapshot(snapshot);
    if (!status.ok()) co_return status;
  }
  count(HostOffset(image_.header_.snapshots_offset), image_.snapshot_table_bytes_);
  co_return Status();
}

Task<Status> Check::count_snapshot(const Snapshot& snapshot) {
  if (!geometry_.is_cluster_aligned(snapshot.l1_offset.value)) {
    error(
        fmt::format("ERROR snapshot {} ({}) l1_offset={:#x}: L1 table is not cluster aligned; "
                    "snapshot table entry corrupted",
                    snapshot.id, snapshot.name, snapshot.l1_offset.value));
    co_return Status();
  }
  uint64_t bytes = uint64_t{snapshot.l1_size} * 8;
  if (bytes > kMaxL1Bytes) {
    error(
        fmt::format("ERROR snapshot {} ({}) l1_size={:#x}: L1 table is too large; snapshot table "
                    "entry corrupted",
                    snapshot.id, snapshot.name, snapshot.l1_size));
    co_return Status();
  }
  if (!count(snapshot.l1_offset, bytes)) co_return Status();
  std::vector<std::byte> table(bytes);
  Status status = co_await image_.file_.read(snapshot.l1_offset, table);
  if (!status.ok()) co_return status;
  for (uint64_t at = 0; at < bytes; at += 8) count_l1_entry(L1Entry(load_be<uint64_t>(table, at)));
  co_return Status();
}

// The active table first, in order, for what is said about fragmentation.
Task<Status> Check::count_tables() {
  for (size_t i = 0; i < image_.l1_.size(); ++i) {
    HostOffset table = image_.l1_.load(L1Index(i)).offset();
    uint64_t cluster = geometry_.cluster_of(table).value;
    bool counted = geometry_.is_cluster_aligned(table.value) && cluster < tables_.size();
    if (table.value == 0 || !counted || tables_[cluster] == 0) continue;
    Status status = co_await count_table(HostCluster(cluster), true);
    if (!status.ok()) co_return status;
  }
  for (uint64_t cluster = 0; cluster < tables_.size(); ++cluster) {
    if (tables_[cluster] == 0) continue;
    Status status = co_await count_table(HostCluster(cluster), false);
    if (!status.ok()) co_return status;
  }
  co_return Status();
}

Task<Status> Check::count_table(HostCluster table, bool active) {
  uint64_t times = std::exchange(tables_[table.value], uint16_t{0});
  std::vector<std::byte> bytes(geometry_.cluster_size());
  Status status = co_await image_.file_.read(geometry_.offset_of(table), bytes);
  if (!status.ok()) {
    ++result_.check_errors;
    say("ERROR: I/O error in check_refcounts_l2");
    co_return status;
  }
  for (size_t at = 0; at < bytes.size(); at += geometry_.l2_entry_size()) {
    L2Entry entry{load_be<uint64_t>(bytes, at), 0};
    if (geometry_.extended_l2()) entry.bitmap = load_be<uint64_t>(bytes, at + 8);
    count_entry(entry, times, active);
  }
  co_return Status();
}

bool Check::bitmap_is_sound(const L2Entry& entry) {
  if (!geometry_.extended_l2()) return true;
  bool placed = entry.kind(geometry_, image_.has_data_file()) == ClusterKind::normal;
  uint64_t both = entry.bitmap & (entry.bitmap >> 32) & L2Entry::kAllAllocated;
  return both == 0 && (placed || (entry.bitmap & L2Entry::kAllAllocated) == 0);
}

void Check::count_entry(const L2Entry& entry, uint64_t times, bool active) {
  if (entry.has_reserved_bits())
    error(fmt::format("ERROR found l2 entry with reserved bits set: {:x}", entry.raw));
  switch (entry.kind(geometry_, image_.has_data_file())) {
    case ClusterKind::compressed: {
      if (image_.has_data_file()) {
        error(fmt::format("ERROR compressed cluster {} with data file, entry={:#x}", 0, entry.raw));
        return;
      }
      CompressedExtent extent = entry.extent(geometry_);
      if (entry.copied())
        error(
            fmt::format("ERROR: coffset={:#x}: copied flag must never be set for compressed "
                        "clusters",
                        extent.offset.value));
      if (entry.bitmap != 0)
        error(
            fmt::format("ERROR compressed cluster {} with non-zero subcluster allocation bitmap, "
                        "entry={:#x}",
                        geometry_.cluster_of(extent.offset).value, entry.raw));
      count(extent.offset, extent.bytes, times);
      if (!active) return;
      ++result_.allocated_clusters;
      ++result_.compressed_clusters;
      ++result_.fragmented_clusters;
      return;
    }
    case ClusterKind::normal:
    case ClusterKind::zero_allocated:
      return count_placed(entry, times, active);
    case ClusterKind::unallocated:
      if (!bitmap_is_sound(entry))
        error("ERROR: Unallocated cluster has non-zero subcluster allocation map");
      return;
    case ClusterKind::zero_plain:
      return;
  }
}

void Check::count_placed(const L2Entry& entry, uint64_t times, bool active) {
  HostOffset at = entry.offset();
  if (!bitmap_is_sound(entry))
    error(
        fmt::format("ERROR offset={:x}: Allocated cluster has corrupted subcluster allocation "
                    "bitmap",
                    at.value));
  if (!geometry_.is_cluster_aligned(at.value)) {
    bool zero = entry.kind(geometry_, false) == ClusterKind::zero_allocated;
    error(zero ? fmt::format("ERROR offset={:x}: Preallocated cluster is not properly aligned; L2 "
                             "entry corrupted.",
                             at.value)
               : fmt::format("ERROR offset={:x}: Data cluster is not properly aligned; L2 entry "
                             "corrupted.",
                             at.value));
    return;
  }
  if (active) {
    ++result_.allocated_clusters;
    if (next_contiguous_.value != 0 && at != next_contiguous_) ++result_.fragmented_clusters;
    next_contiguous_ = at + geometry_.cluster_size();
  }
  if (!image_.has_data_file()) count(at, geometry_.cluster_size(), times);
}

Task<Status> Check::count_bitmaps() {
  if (!image_.extensions_.bitmaps) co_return Status();
  const BitmapsExtension& extension = *image_.extensions_.bitmaps;
  count(extension.directory_offset, extension.directory_size);
  for (const BitmapEntry& bitmap : image_.bitmaps_) {
    uint64_t bytes = uint64_t{bitmap.table_size} * 8;
    if (!count(bitmap.table_offset, bytes)) continue;
    std::vector<std::byte> table(bytes);
    Status status = co_await image_.file_.read(bitmap.table_offset, table);
    if (!status.ok()) co_return status;
    for (uint64_t at = 0; at < bytes; at += 8) {
      BitmapTableEntry entry{load_be<uint64_t>(table, at)};
      if (!entry.valid(geometry_))
        error(fmt::format("ERROR: bitmap '{}' has a corrupted table entry {:x}", bitmap.name,
                          entry.raw));
      else if (entry.offset().value != 0)
        count(entry.offset(), geometry_.cluster_size());
    }
  }
  co_return Status();
}

Task<Status> Check::count_refcounts() {
  count(HostOffset(image_.header_.refcount_table_offset),
        image_.header_.refcount_table_clusters * geometry_.cluster_size());
  const std::vector<uint64_t>& table = image_.refcounts_.table();
  for (size_t i = 0; i < table.size(); ++i) {
    RefcountTableEntry entry{table[i]};
    if (entry.raw == 0) continue;
    if (entry.has_reserved_bits()) {
      error(fmt::format("ERROR refcount table entry {} has reserved bits set", i));
      needs_rebuild_ = true;
      continue;
    }
    HostOffset at = entry.offset();
    if (!geometry_.is_cluster_aligned(at.value)) {
      error(
          fmt::format("ERROR refcount block {} is not cluster aligned; refcount table entry "
                      "corrupted",
                      i));
      needs_rebuild_ = true;
      continue;
    }
    if (geometry_.cluster_of(at).value >= clusters_) {
      error(fmt::format("ERROR refcount block {} is outside image", i));
      needs_rebuild_ = true;
      continue;
    }
    count(at, geometry_.cluster_size());
    uint16_t times = counts_[geometry_.cluster_of(at).value];
    if (times == 1) continue;
    error(fmt::format("ERROR refcount block {} refcount={}", i, times));
    needs_rebuild_ = true;
  }
  co_return Status();
}

Task<Status> Check::compare_one(HostCluster cluster) {
  Mutex::Lock lock = co_await image_.metadata_.lock();
  Result<uint64_t> stored = co_await image_.refcounts_.get(cluster);
  if (!stored) {
    ++result_.check_errors;
    say(fmt::format("Can't get refcount for cluster {}: {}", cluster.value,
                    Error::describe_errno(stored.error_number())));
    co_return Status();
  }
  uint64_t counted = cluster.value < counts_.size() ? counts_[cluster.value] : 0;
  if (*stored != 0 || counted != 0)
    result_.image_end_offset = geometry_.offset_of(cluster + 1).value;
  if (*stored == counted || (counted == kMany && *stored >= kMany)) co_return Status();
  bool leak = *stored > counted;
  bool fix = leak ? fix_.leaks : fix_.errors && !needs_rebuild_;
  const char* how = fix ? "Repairing" : leak ? "Leaked" : "ERROR";
  say(fmt::format("{} cluster {} refcount={} reference={}", how, cluster.value, *stored, counted));
  if (fix) {
    Status status = leak ? co_await image_.refcounts_.decrease(cluster, 1, *stored - counted)
                         : co_await image_.refcounts_.increase(cluster, 1, counted - *stored);
    if (!status.ok()) {
      ++result_.check_errors;
      co_return Status();
    }
    ++(leak ? result_.leaks_fixed : result_.corruptions_fixed);
    co_return Status();
  }
  ++(leak ? result_.leaks : result_.corruptions);
  co_return Status();
}

Task<Status> Check::compare() {
  const std::vector<uint64_t>& table = image_.refcounts_.table();
  for (uint64_t i = 0; i < table.size(); ++i) {
    HostCluster first = geometry_.first_cluster(TableIndex(i));
    HostCluster end = geometry_.first_cluster(TableIndex(i + 1));
    bool has_block = RefcountTableEntry{table[i]}.offset().value != 0;
    if (!has_block) end = std::min(end, HostCluster(counts_.size()));
    for (HostCluster cluster = first; cluster < end; ++cluster) {
      Status status = co_await compare_one(cluster);
      if (!status.ok()) co_return status;
    }
  }
  HostCluster covered = geometry_.first_cluster(TableIndex(table.size()));
  for (HostCluster cluster = covered; cluster < HostCluster(counts_.size()); ++cluster) {
    Status status = co_await compare_one(cluster);
    if (!status.ok()) co_return status;
  }
  co_return Status();
}

// Everything that is referred to gets its count, in blocks behind the end of the file. Nothing of
// the old structure is used, or written to.
Task<Status> Check::rebuild() {
  say("Rebuilding refcount structure");
  std::fill(counts_.begin(), counts_.end(), uint16_t{0});
  CheckResult found = result_;
  CheckReport report = std::exchange(report_, nullptr);
  Status status = co_await count_everything(false);
  report_ = std::move(report);
  result_ = found;
  if (!status.ok()) co_return status;
  {
    Mutex::Lock lock = co_await image_.metadata_.lock();
    status = co_await image_.refcounts_.rebuild(counts_);
  }
  if (status.ok()) status = co_await image_.settle();
  co_return status;
}

Task<Status> Check::count_everything(bool refcounts) {
  count(HostOffset(0), geometry_.cluster_size());
  count(HostOffset(image_.header_.l1_table_offset), uint64_t{image_.header_.l1_size} * 8);
  for (size_t i = 0; i < image_.l1_.size(); ++i) count_l1_entry(image_.l1_.load(L1Index(i)));
  Status status = co_await count_snapshots();
  if (status.ok()) status = co_await count_tables();
  if (status.ok()) status = co_await count_bitmaps();
  if (status.ok() && image_.extensions_.crypto)
    count(image_.extensions_.crypto->offset, image_.extensions_.crypto->length);
  if (status.ok() && refcounts) status = co_await count_refcounts();
  co_return status;
}

Task<Status> Check::check_copied() {
  for (size_t i = 0; i < image_.l1_.size(); ++i) {
    L1Entry entry = image_.l1_.load(L1Index(i));
    HostOffset table = entry.offset();
    if (table.value == 0 || !geometry_.is_cluster_aligned(table.value)) continue;
    if (geometry_.cluster_of(table).value >= clusters_) continue;
    {
      Mutex::Lock lock = co_await image_.metadata_.lock();
      Result<uint64_t> count = co_await image_.refcounts_.get(geometry_.cluster_of(table));
      if (!count) continue;
      if ((*count == 1) != entry.copied()) {
        say(fmt::format("{} OFLAG_COPIED L2 cluster: l1_index={} l1_entry={:x} refcount={}",
                        fix_.errors ? "Repairing" : "ERROR", i, entry.raw, *count));
        if (fix_.errors) image_.l1_.store(L1Index(i), L1Entry::of(table, *count == 1));
        ++(fix_.errors ? result_.corruptions_fixed : result_.corruptions);
      }
    }
    Status status = co_await check_copied_table(L1Index(i), table);
    if (!status.ok()) co_return status;
  }
  co_return Status();
}

Task<Status> Check::check_copied_table(L1Index, HostOffset table) {
  if (image_.has_data_file()) co_return Status();
  std::vector<std::byte> bytes(geometry_.cluster_size());
  Status status = co_await image_.file_.read(table, bytes);
  if (!status.ok()) co_return status;
  bool changed = false;
  Mutex::Lock lock = co_await image_.metadata_.lock();
  for (size_t at = 0; at < bytes.size(); at += geometry_.l2_entry_size()) {
    L2Entry entry{load_be<uint64_t>(bytes, at), 0};
    ClusterKind kind = entry.kind(geometry_, false);
    if (kind != ClusterKind::normal && kind != ClusterKind::zero_allocated) continue;
    Result<uint64_t> count = co_await image_.refcounts_.get(geometry_.cluster_of(entry.offset()));
    if (!count || (*count == 1) == entry.copied()) continue;
    say(fmt::format("{} OFLAG_COPIED data cluster: l2_entry={:x} refcount={}",
                    fix_.errors ? "Repairing" : "ERROR", entry.raw, *count));
    ++(fix_.errors ? result_.corruptions_fixed : result_.corruptions);
    store_be<uint64_t>(bytes, at, entry.raw ^ kCopiedFlag);
    changed = true;
  }
  if (!changed || !fix_.errors) co_return Status();
  status = co_await image_.file_.write(table, bytes);
  if (status.ok()) image_.l2_.clear();
  co_return status;
}

Task<Result<CheckResult>> Check::run() {
  result_.total_clusters = geometry_.clusters_for(image_.size());
  Status status = co_await count_everything(true);
  if (!status.ok()) co_return status;
  if (needs_rebuild_ && fix_.errors) {
    status = co_await rebuild();
    if (!status.ok()) co_return status;
    Check again(image_, fix_, nullptr);
    Result<CheckResult> after = co_await again.run();
    if (!after) co_return after;
    if (again.needs_rebuild_) {
      say("ERROR rebuilt refcount structure is still broken");
    } else {
      after->corruptions_fixed +=
          result_.corruptions - std::min(result_.corruptions, after->corruptions);
    }
    co_return after;
  }
  if (needs_rebuild_) say("ERROR need to rebuild refcount structures");
  status = co_await compare();
  if (status.ok()) status = co_await check_copied();
  if (status.ok() && (fix_.leaks || fix_.errors)) status = co_await image_.settle();
  if (!status.ok()) co_return status;
  bool sound = result_.corruptions == 0 && result_.check_errors == 0;
  if (fix_.errors && sound) status = co_await image_.clear_broken_flags();
  if (!status.ok()) co_return status;
  co_return result_;
}

Task<Result<CheckResult>> check_image(Image& image, CheckFix fix, CheckReport report) {
  Check check(image, fix, std::move(report));
  co_return co_await check.run();
}

Task<void> repair_dirty_image(Image& image) {
  Result<CheckResult> result = co_await check_image(image, {.leaks = true, .errors = true}, {});
  if (!result) throw Error::from_errno(result.error_number(), "Could not repair dirty image");
  if (result->corruptions != 0 || result->check_errors != 0)
    throw Error::from_errno(EIO, "Could not repair dirty image");
}

}  // namespace strata::qcow2
