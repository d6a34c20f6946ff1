// SPDX-License-Identifier: GPL-2.0-or-later
//
// The second half of a check: do the refcounts, and the flags that follow from them, agree with
// what was counted?
#include <algorithm>
#include <cerrno>

#include "block/base/error.h"
#include "block/qcow2/checker.h"
#include "block/qcow2/format/refcount_block.h"

namespace strata::qcow2 {

Task<Status> Check::check_refcounts() {
  file_bytes_ = image_.file_.length();
  if (geometry_.clusters_for(file_bytes_) > INT32_MAX) {
    ++result_.check_errors;
    co_return Status::error(EFBIG);
  }
  result_.total_clusters = geometry_.clusters_for(image_.size());
  Status status = co_await load_refcount_table();
  if (status.ok()) status = co_await count_references(fix_);
  if (!status.ok()) co_return status;
  bool fixing = fix_.leaks || fix_.errors;
  CheckResult counted = result_;
  status = co_await compare({}, !fixing);
  if (status.ok() && needs_rebuild_ && fix_.errors) {
    status = co_await rebuild_and_compare();
  } else if (status.ok() && fixing) {
    if (needs_rebuild_) {
      say("ERROR need to rebuild refcount structures");
      co_return Status::error(EIO);
    }
    if (result_.leaks != 0 || result_.corruptions != 0) {
      result_ = counted;
      status = co_await compare(fix_, true);
    }
  }
  if (status.ok()) status = co_await check_copied();
  result_.image_end_offset = (highest_ + 1) << geometry_.cluster_bits();
  co_return status;
}

// What the old blocks and the old table took is not used any more: it shows as leaks, which are
// mended at once.
Task<Status> Check::rebuild_and_compare() {
  CheckResult found = result_;
  say("Rebuilding refcount structure");
  Status status = co_await rebuild();
  if (!status.ok()) co_return status;
  result_.corruptions = result_.leaks = 0;
  result_.allocated_clusters = result_.compressed_clusters = result_.fragmented_clusters = 0;
  needs_rebuild_ = false;
  status = co_await load_refcount_table();
  if (status.ok()) status = co_await count_references({});
  if (!status.ok()) co_return status;
  uint64_t fresh_leaks = 0;
  if (fix_.leaks) {
    CheckResult saved = result_;
    result_.leaks = 0;
    status = co_await compare({.leaks = true}, true);
    if (!status.ok()) co_return status;
    if (needs_rebuild_) say("ERROR rebuilt refcount structure is still broken");
    fresh_leaks = result_.leaks;
    saved.corruptions = result_.corruptions;
    result_ = saved;
  }
  if (result_.corruptions < found.corruptions)
    result_.corruptions_fixed += found.corruptions - result_.corruptions;
  if (result_.leaks < found.leaks) result_.leaks_fixed += found.leaks - result_.leaks;
  result_.leaks += fresh_leaks;
  co_return Status();
}

// The last time, `counts_` becomes what the image says.
Task<Status> Check::compare(CheckFix fix, bool last) {
  highest_ = 0;
  for (uint64_t index = 0;; ++index) {
    uint64_t first = geometry_.first_cluster(TableIndex(index)).value;
    if (first >= counts_.size()) co_return Status();
    Status status = co_await compare_block(index, fix, last);
    if (!status.ok()) co_return status;
  }
}

Task<Status> Check::compare_block(uint64_t index, CheckFix fix, bool last) {
  uint64_t first = geometry_.first_cluster(TableIndex(index)).value;
  uint64_t end = std::min(counts_.size(), first + geometry_.refcount_block_entries());
  HostOffset at = index < table_.size() ? RefcountTableEntry{table_[index]}.offset() : HostOffset();
  if (at.value == 0 && !counts_.any(first, end)) co_return Status();
  block_.assign(geometry_.cluster_size(), std::byte{0});
  if (at.value == 0) co_return co_await compare_clusters(first, end, fix, last);
  Status status;
  if (!geometry_.is_cluster_aligned(at.value)) {
    status = Status::error(EIO);
    if (!std::exchange(told_of_unaligned_, true))
      say("qcow2: Image is corrupt: Refblock offset {:#x} unaligned (reftable index: {}); "
          "further non-fatal corruption events will be suppressed",
          at.value, index);
  } else if (at.value < file_bytes_) {
    status = co_await image_.file_.read(at, block_);
  }
  if (status.ok()) co_return co_await compare_clusters(first, end, fix, last);
  unreadable_.insert(index);
  for (uint64_t cluster = first; cluster < end; ++cluster) {
    say("Can't get refcount for cluster {}: {}", cluster,
        Error::describe_errno(status.error_number()));
    ++result_.check_errors;
  }
  co_return Status();
}

// The next cluster whose count in the block is not what was counted; else `end`.
uint64_t Check::skip_equal(uint64_t cluster, uint64_t first, uint64_t end) noexcept {
  for (; cluster < end; ++cluster) {
    uint64_t counted = counts_.get(cluster);
    if (load_refcount(block_, geometry_.refcount_order(), cluster - first) != counted)
      return cluster;
    if (counted != 0) highest_ = cluster;
  }
  return end;
}

Task<Status> Check::compare_clusters(uint64_t first, uint64_t end, CheckFix fix, bool last) {
  bool changed = false;
  for (uint64_t cluster = first; (cluster = skip_equal(cluster, first, end)) < end; ++cluster) {
    uint64_t counted = counts_.get(cluster);
    uint64_t stored = load_refcount(block_, geometry_.refcount_order(), cluster - first);
    highest_ = cluster;
    bool leak = stored > counted;
    if (stored == 0) needs_rebuild_ = true;
    bool fixable = stored != 0 && (leak ? fix.leaks : fix.errors);
    say("{} cluster {} refcount={} reference={}",
        fixable ? "Repairing"
        : leak  ? "Leaked"
                : "ERROR",
        cluster, stored, counted);
    if (fixable && in_use_) leaked_.push_back({cluster, stored, counted});
    if (fixable && (in_use_ || co_await fix_count(cluster, stored, counted))) {
      ++(leak ? result_.leaks_fixed : result_.corruptions_fixed);
      changed = !in_use_;
      continue;
    }
    if (last) counts_.set(cluster, stored);
    ++(leak ? result_.leaks : result_.corruptions);
  }
  if (!changed) co_return Status();
  co_return co_await image_.write_back();
}

// What was found on the disk, which must stay as it is until everything has been compared. Nobody
// can have taken these clusters meanwhile: they are not free.
Task<Status> Check::fix_leaks_in_use() {
  for (const Leak& leak : leaked_) {
    if (co_await fix_count(leak.cluster, leak.stored, leak.counted)) continue;
    --result_.leaks_fixed;
    ++result_.leaks;
  }
  co_return co_await image_.write_back_locked(true);
}

// Discarded before anybody else can have it.
Task<bool> Check::fix_count(uint64_t cluster, uint64_t stored, uint64_t counted) {
  HostCluster at(cluster);
  if (counted == 0)
    (void)co_await io::pdiscard(image_.file_.edge(), geometry_.offset_of(at).value,
                                geometry_.cluster_size());
  Mutex::Lock lock = co_await image_.metadata_.lock();
  image_.refcounts_.close_for_bytes(at);
  Status status = stored > counted ? co_await image_.refcounts_.decrease(at, 1, stored - counted)
                                   : co_await image_.refcounts_.increase(at, 1, counted - stored);
  co_return status.ok();
}

// --- The flags in L1 and L2 entries that say that a refcount is exactly one ---

// Nothing where the image's refcounts cannot be read.
Task<std::optional<uint64_t>> Check::stored_count(HostCluster cluster) {
  if (unreadable_.contains(geometry_.table_index(cluster).value)) co_return std::nullopt;
  if (cluster.value < counts_.size()) co_return counts_.get(cluster.value);
  uint64_t index = geometry_.table_index(cluster).value;
  HostOffset at = index < table_.size() ? RefcountTableEntry{table_[index]}.offset() : HostOffset();
  if (at.value == 0 || at.value >= file_bytes_) co_return uint64_t{0};
  if (!geometry_.is_cluster_aligned(at.value)) co_return std::nullopt;
  block_.resize(geometry_.cluster_size());
  if (!(co_await image_.file_.read(at, block_)).ok()) co_return std::nullopt;
  co_return load_refcount(block_, geometry_.refcount_order(), geometry_.block_index(cluster).value);
}

// They are mended where the refcounts are right, or were made right.
Task<Status> Check::check_copied() {
  bool sound = result_.corruptions == 0 && result_.check_errors == 0 && result_.leaks == 0;
  bool repair = fix_.errors || (fix_.leaks && sound && !in_use_);
  visits_.clear();
  HostOffset l1(image_.header_.l1_table_offset);
  uint64_t bytes = bytes_in_file(l1, uint64_t{image_.header_.l1_size} * 8);
  std::vector<std::byte> buffer;
  for (uint64_t at = 0; at < bytes; at += buffer.size()) {
    buffer.resize(std::min<uint64_t>(64 * 1024, bytes - at));
    Status status = co_await image_.file_.read(l1 + at, buffer);
    for (size_t i = 0; status.ok() && i < buffer.size(); i += 8) {
      L1Entry entry(load_be<uint64_t>(buffer, i));
      if (entry.offset().value == 0) continue;
      status = co_await check_copied_entry(L1Index((at + i) / 8), entry, repair);
    }
    if (!status.ok()) co_return status;
  }
  co_return Status();
}

Task<Status> Check::check_copied_entry(L1Index index, L1Entry entry, bool repair) {
  std::optional<uint64_t> count = co_await stored_count(geometry_.cluster_of(entry.offset()));
  if (!count) co_return Status();
  if ((*count == 1) != entry.copied()) {
    error("{} OFLAG_COPIED L2 cluster: l1_index={} l1_entry={:x} refcount={}", verb(repair),
          index.value, entry.raw, *count);
    if (repair) {
      std::vector<std::byte> bytes(8);
      store_be<uint64_t>(bytes, 0, entry.raw ^ kCopiedFlag);
      HostOffset at = HostOffset(image_.header_.l1_table_offset) + index.value * 8;
      Status status = co_await image_.file_.write(at, bytes);
      if (!status.ok()) {
        ++result_.check_errors;
        co_return status;
      }
      image_.l1_.fill(index.value, bytes);
      --result_.corruptions;
      ++result_.corruptions_fixed;
    }
  }
  if (entry.offset().value >= file_bytes_) co_return Status();
  Visit& visit = visits_[entry.offset().value];
  if (visit.visited && (visit.corruptions == 0 || said_ > kMostRepeated)) {
    result_.corruptions += visit.corruptions;
    co_return Status();
  }
  uint64_t before = result_.corruptions;
  Status status = co_await check_copied_table(entry.offset(), repair);
  visit.visited = true;
  visit.corruptions = result_.corruptions - before;
  co_return status;
}

// The next entry of which it is not plain that its flag is right.
size_t Check::skip_right_flags(size_t at) const noexcept {
  bool known = unreadable_.empty() && !image_.has_data_file();
  for (; at < buffer_.size(); at += geometry_.l2_entry_size()) {
    L2Entry entry{load_be<uint64_t>(buffer_, at), 0};
    if (entry.raw == 0) continue;
    uint64_t cluster = geometry_.cluster_of(entry.offset()).value;
    bool plain =
        known && !entry.is_compressed() && entry.offset().value != 0 && cluster < counts_.size();
    if (!plain || (counts_.get(cluster) == 1) != entry.copied()) return at;
  }
  return at;
}

Task<Status> Check::check_copied_table(HostOffset table, bool repair) {
  buffer_.resize(geometry_.cluster_size());
  Status status = co_await image_.file_.read(table, buffer_);
  if (!status.ok()) {
    say("ERROR: I/O error in check_oflag_copied: {}", Error::describe_errno(status.error_number()));
    ++result_.check_errors;
    co_return status;
  }
  uint64_t wrong = 0;
  for (size_t at = 0; (at = skip_right_flags(at)) < buffer_.size();
       at += geometry_.l2_entry_size()) {
    L2Entry entry{load_be<uint64_t>(buffer_, at), 0};
    ClusterKind kind = entry.kind(geometry_, image_.has_data_file());
    if (kind != ClusterKind::normal && kind != ClusterKind::zero_allocated) continue;
    HostCluster cluster = geometry_.cluster_of(entry.offset());
    std::optional<uint64_t> count = 1;
    if (!image_.has_data_file()) {
      bool known = cluster.value < counts_.size() && unreadable_.empty();
      count = known ? counts_.get(cluster.value) : co_await stored_count(cluster);
    }
    if (!count || (*count == 1) == entry.copied()) [[likely]]
      continue;
    ++wrong;
    error("{} OFLAG_COPIED data cluster: l2_entry={:x} refcount={}", verb(repair), entry.raw,
          *count);
    store_be<uint64_t>(buffer_, at, entry.raw ^ kCopiedFlag);
  }
  if (wrong == 0 || !repair) co_return Status();
  bool overlaps = is_other_metadata(table);
  if (!overlaps) status = co_await image_.file_.write(table, buffer_);
  if (overlaps || !status.ok()) {
    say("ERROR: Could not write L2 table{}: {}", overlaps ? "; metadata overlap check failed" : "",
        Error::describe_errno(overlaps ? EIO : status.error_number()));
    ++result_.check_errors;
    co_return overlaps ? Status::error(EIO) : status;
  }
  image_.l2_.clear();
  result_.corruptions -= wrong;
  result_.corruptions_fixed += wrong;
  co_return Status();
}

}  // namespace strata::qcow2
