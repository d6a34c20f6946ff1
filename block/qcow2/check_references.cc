// SPDX-License-Identifier: GPL-2.0-or-later
//
// The first half of a check: what does the metadata refer to?
#include <algorithm>
#include <cerrno>

#include "block/base/error.h"
#include "block/qcow2/checker.h"

namespace strata::qcow2 {
namespace {

constexpr uint64_t kReadStep = 64 * 1024;

}  // namespace

Check::Sweep::Sweep(std::vector<Stretch> ends) : stretches(std::move(ends)) {
  std::sort(stretches.begin(), stretches.end(),
            [](const Stretch& a, const Stretch& b) { return a.offset < b.offset; });
  uint64_t tables = 0;
  for (const Stretch& end : stretches) depth.push_back(tables += static_cast<uint64_t>(end.change));
}

void Check::count(HostOffset at, uint64_t bytes, uint64_t times) {
  if (bytes == 0) return;
  uint64_t end = at.value + bytes;
  if (end < bytes || (end > file_bytes_ && end - file_bytes_ >= geometry_.cluster_size())) {
    error(
        "ERROR: counting reference for region exceeding the end of the file by one cluster or "
        "more: offset {:#x} size {:#x}",
        at.value, bytes);
    return;
  }
  uint64_t last = geometry_.cluster_of(HostOffset(end - 1)).value;
  if (last >= counts_.size()) counts_.resize(last + 1);
  for (uint64_t cluster = geometry_.cluster_of(at).value; cluster <= last; ++cluster) {
    if (!counts_.add(cluster, times)) overflow(cluster);
  }
}

void Check::overflow(uint64_t cluster) {
  error(
      "ERROR: overflow cluster offset={:#x}\nUse qemu-img amend to increase the refcount entry "
      "width or qemu-img convert to create a clean copy if the image cannot be opened for writing",
      cluster << geometry_.cluster_bits());
}

Task<Status> Check::load_refcount_table() {
  uint64_t bytes = image_.header_.refcount_table_clusters * geometry_.cluster_size();
  std::vector<std::byte> table(bytes);
  Status status =
      co_await image_.file_.read(HostOffset(image_.header_.refcount_table_offset), table);
  if (!status.ok()) co_return status;
  table_.resize(bytes / 8);
  for (size_t i = 0; i < table_.size(); ++i) table_[i] = load_be<uint64_t>(table, i * 8);
  co_return Status();
}

Task<Status> Check::count_references(CheckFix fix) {
  counts_.reset(geometry_.clusters_for(file_bytes_), geometry_.max_refcount());
  visits_.clear();
  stretches_.clear();
  entries_seen_ = 0;
  find_metadata();
  count(HostOffset(0), geometry_.cluster_size());
  Status status = co_await count_l1(
      {HostOffset(image_.header_.l1_table_offset), image_.header_.l1_size, true}, fix);
  if (status.ok()) status = co_await count_snapshots(fix);
  if (status.ok()) status = co_await count_again();
  if (!status.ok()) co_return status;
  count(HostOffset(image_.header_.snapshots_offset), snapshot_table_bytes_);
  count(HostOffset(image_.header_.refcount_table_offset), table_.size() * 8);
  if (image_.extensions_.crypto)
    count(image_.extensions_.crypto->offset, image_.extensions_.crypto->length);
  status = co_await count_bitmaps();
  if (!status.ok()) co_return status;
  co_return co_await count_refcount_blocks(fix);
}

// Behind the end of the file there are empty entries.
uint64_t Check::bytes_in_file(HostOffset table, uint64_t bytes) const noexcept {
  return std::min(bytes, file_bytes_ - std::min(file_bytes_, table.value)) / 8 * 8;
}

void Check::add_stretch(std::vector<Stretch>& to, HostOffset table, uint64_t bytes) const {
  bytes = bytes_in_file(table, bytes);
  if (bytes == 0) return;
  to.push_back({table.value, 1});
  to.push_back({table.value + bytes, -1});
}

// --- L1 tables ---

Task<Status> Check::count_l1(L1Use use, CheckFix fix) {
  uint64_t bytes = use.entries * 8;
  count(use.offset, bytes);
  bytes = bytes_in_file(use.offset, bytes);
  entries_seen_ += use.active ? 0 : bytes / 8;
  if (entries_seen_ > kMostEntries) {
    add_stretch(stretches_, use.offset, bytes);
    co_return Status();
  }
  std::vector<std::byte> buffer;
  for (uint64_t at = 0; at < bytes; at += buffer.size()) {
    buffer.resize(std::min(kReadStep, bytes - at));
    Status status = co_await image_.file_.read(use.offset + at, buffer);
    if (!status.ok()) {
      say("ERROR: I/O error in check_refcounts_l1");
      ++result_.check_errors;
      co_return status;
    }
    for (size_t i = 0; i < buffer.size(); i += 8) {
      uint64_t raw = load_be<uint64_t>(buffer, i);
      if (raw == 0) continue;
      status = co_await count_l1_entry(raw, 1, use.active, fix);
      if (!status.ok()) co_return status;
    }
  }
  co_return Status();
}

Task<Status> Check::count_l1_entry(uint64_t raw, uint64_t times, bool active, CheckFix fix) {
  L1Entry entry(raw);
  if (entry.has_reserved_bits()) error("ERROR found L1 entry with reserved bits set: {:x}", raw);
  HostOffset table = entry.offset();
  count(table, geometry_.cluster_size(), times);
  if (!geometry_.is_cluster_aligned(table.value))
    error("ERROR l2_offset={:x}: Table is not cluster aligned; L1 entry corrupted", table.value);
  return visit_table(table, times, active, fix);
}

Task<Status> Check::count_snapshots(CheckFix fix) {
  if (image_.has_data_file() && !snapshots_.empty())
    error("ERROR {} snapshots in image with data file", snapshots_.size());
  for (const Snapshot& snapshot : snapshots_) {
    if (!geometry_.is_cluster_aligned(snapshot.l1_offset.value)) {
      error(
          "ERROR snapshot {} ({}) l1_offset={:#x}: L1 table is not cluster aligned; snapshot "
          "table entry corrupted",
          snapshot.id, snapshot.name, snapshot.l1_offset.value);
      continue;
    }
    if (snapshot.l1_size > kMaxL1Bytes / 8) {
      error(
          "ERROR snapshot {} ({}) l1_size={:#x}: L1 table is too large; snapshot table entry "
          "corrupted",
          snapshot.id, snapshot.name, snapshot.l1_size);
      continue;
    }
    Status status = co_await count_l1({snapshot.l1_offset, snapshot.l1_size, false}, fix);
    if (!status.ok()) co_return status;
  }
  co_return co_await count_stretches(fix);
}

// Tables that lie over one another, in one go.
Task<Status> Check::count_stretches(CheckFix fix) {
  Sweep sweep(std::exchange(stretches_, {}));
  for (;;) {
    Status status = co_await next_entries(sweep);
    if (!status.ok() || sweep.entries.empty()) co_return status;
    for (size_t at = 0; at < sweep.entries.size(); at += 8) {
      uint64_t raw = load_be<uint64_t>(sweep.entries, at);
      if (raw == 0) continue;
      status = co_await count_l1_entry(raw, sweep.times, false, fix);
      if (!status.ok()) co_return status;
    }
  }
}

// The next entries that are part of some table, and of how many; none at the end.
Task<Status> Check::next_entries(Sweep& sweep) {
  sweep.entries.clear();
  while (sweep.next + 1 < sweep.stretches.size()) {
    uint64_t end = sweep.stretches[sweep.next + 1].offset;
    uint64_t at = std::max(sweep.at, sweep.stretches[sweep.next].offset);
    if (at >= end || sweep.covered() == 0) {
      ++sweep.next;
      continue;
    }
    sweep.entries.resize(std::min(kReadStep, end - at));
    sweep.times = sweep.covered();
    sweep.at = at + sweep.entries.size();
    co_return co_await image_.file_.read(HostOffset(at), sweep.entries);
  }
  co_return Status();
}

// --- Other metadata ---

// Where metadata other than L2 tables is said to be.
void Check::find_metadata() {
  metadata_.clear();
  auto add = [&](uint64_t offset, uint64_t bytes) {
    if (bytes != 0) metadata_.push_back({offset, bytes});
  };
  uint64_t cluster = geometry_.cluster_size();
  add(0, cluster);
  add(image_.header_.l1_table_offset, uint64_t{image_.header_.l1_size} * 8);
  add(image_.header_.refcount_table_offset, table_.size() * 8);
  add(image_.header_.snapshots_offset, snapshot_table_bytes_);
  for (uint64_t entry : table_) {
    HostOffset at = RefcountTableEntry{entry}.offset();
    if (at.value != 0) add(at.value, cluster);
  }
  for (const Snapshot& snapshot : snapshots_) {
    if (snapshot.l1_size <= kMaxL1Bytes / 8)
      add(snapshot.l1_offset.value, uint64_t{snapshot.l1_size} * 8);
  }
  std::sort(metadata_.begin(), metadata_.end(),
            [](ByteRange a, ByteRange b) { return a.offset < b.offset; });
  size_t kept = 0;
  for (ByteRange range : metadata_) {
    ByteRange& last = metadata_[kept == 0 ? 0 : kept - 1];
    if (kept != 0 && range.offset <= last.end())
      last.bytes = std::max(last.end(), range.end()) - last.offset;
    else
      metadata_[kept++] = range;
  }
  metadata_.resize(kept);
}

bool Check::is_other_metadata(HostOffset at) const noexcept {
  auto behind = std::upper_bound(metadata_.begin(), metadata_.end(), at.value,
                                 [](uint64_t offset, ByteRange r) { return offset < r.offset; });
  return behind != metadata_.begin() && at.value < std::prev(behind)->end();
}

// --- Bitmaps ---

Task<Status> Check::count_bitmaps() {
  if (!image_.extensions_.bitmaps) co_return Status();
  const BitmapsExtension extension = *image_.extensions_.bitmaps;
  count(extension.directory_offset, extension.directory_size);
  std::vector<Stretch> tables;
  for (const BitmapEntry& bitmap : image_.bitmaps_) {
    uint64_t bytes = uint64_t{bitmap.table_size} * 8;
    count(bitmap.table_offset, bytes);
    add_stretch(tables, bitmap.table_offset, bytes);
  }
  Sweep sweep(std::move(tables));
  for (;;) {
    Status status = co_await next_entries(sweep);
    if (!status.ok() || sweep.entries.empty()) co_return status;
    for (size_t at = 0; at < sweep.entries.size(); at += 8)
      count_bitmap_entry({load_be<uint64_t>(sweep.entries, at)}, sweep.times);
  }
}

void Check::count_bitmap_entry(BitmapTableEntry entry, uint64_t times) {
  if (!entry.valid(geometry_))
    error("ERROR: a bitmap table has a corrupted entry {:x}", entry.raw);
  else if (entry.offset().value != 0)
    count(entry.offset(), geometry_.cluster_size(), times);
}

// --- Refcount blocks ---

Task<Status> Check::count_refcount_blocks(CheckFix fix) {
  for (size_t i = 0; i < table_.size(); ++i) {
    RefcountTableEntry entry{table_[i]};
    if (entry.raw == 0) continue;
    HostOffset at = entry.offset();
    uint64_t cluster = geometry_.cluster_of(at).value;
    if (entry.has_reserved_bits()) {
      error("ERROR refcount table entry {} has reserved bits set", i);
      needs_rebuild_ = true;
    } else if (!geometry_.is_cluster_aligned(at.value)) {
      error("ERROR refcount block {} is not cluster aligned; refcount table entry corrupted", i);
      needs_rebuild_ = true;
    } else if (cluster >= counts_.size()) {
      error("{} refcount block {} is outside image", verb(fix.errors), i);
      if (!fix.errors) continue;
      needs_rebuild_ = !co_await grow_file_to(at) || needs_rebuild_;
    } else {
      count(at, geometry_.cluster_size());
      if (counts_.get(cluster) == 1) continue;
      error("ERROR refcount block {} refcount={}", i, counts_.get(cluster));
      needs_rebuild_ = true;
    }
  }
  co_return Status();
}

Task<bool> Check::grow_file_to(HostOffset block) {
  uint64_t size = block.value + geometry_.cluster_size();
  int failed = 0;
  if (block.value > INT64_MAX - geometry_.cluster_size()) failed = EINVAL;
  if (failed == 0 && geometry_.clusters_for(size) > INT32_MAX) failed = EFBIG;
  if (failed == 0) {
    try {
      co_await io::truncate(image_.file_.edge(), size, {.exact = false});
    } catch (const Error& error) {
      failure(error.text());
      failed = error.error_number() != 0 ? error.error_number() : EIO;
    }
  }
  if (failed != 0) {
    say("ERROR could not resize image: {}", Error::describe_errno(failed));
    co_return false;
  }
  file_bytes_ = image_.file_.length();
  counts_.resize(geometry_.clusters_for(file_bytes_));
  --result_.corruptions;
  ++result_.corruptions_fixed;
  count(block, geometry_.cluster_size());
  co_return true;
}

}  // namespace strata::qcow2
