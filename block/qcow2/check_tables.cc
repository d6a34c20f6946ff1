// SPDX-License-Identifier: GPL-2.0-or-later
//
// L2 tables in a check.
#include <cerrno>

#include "block/base/error.h"
#include "block/qcow2/checker.h"

namespace strata::qcow2 {

Task<Status> Check::visit_table(HostOffset table, uint64_t times, bool active, CheckFix fix) {
  if (table.value >= file_bytes_) co_return Status();  // all its entries are empty
  Visit& visit = visits_[table.value];
  bool again = visit.visited && (visit.corruptions == 0 || said_ > kMostRepeated);
  if (again) {
    visit.more += times;
    result_.corruptions += visit.corruptions * times;
  } else {
    uint64_t before = result_.corruptions;
    Walk walk{.table = table, .times = times, .fix = fix};
    Status status = co_await walk_table(walk);
    if (!status.ok()) co_return status;
    visit = walk.visit;
    visit.visited = true;
    visit.corruptions = result_.corruptions - before;
    result_.corruptions += visit.corruptions * (times - 1);
  }
  if (active) {
    result_.allocated_clusters += visit.allocated;
    result_.compressed_clusters += visit.compressed;
    result_.fragmented_clusters += visit.fragmented;
  }
  co_return Status();
}

Task<Status> Check::walk_table(Walk& walk) {
  buffer_.resize(geometry_.cluster_size());
  Status status = co_await image_.file_.read(walk.table, buffer_);
  if (!status.ok()) {
    say("ERROR: I/O error in check_refcounts_l2");
    ++result_.check_errors;
    co_return status;
  }
  size_t size = geometry_.l2_entry_size();
  for (size_t at = 0; at < buffer_.size(); at += size) {
    L2Entry entry{load_be<uint64_t>(buffer_, at), 0};
    if (size == 16) entry.bitmap = load_be<uint64_t>(buffer_, at + 8);
    if (entry.raw == 0 && entry.bitmap == 0) continue;
    if (is_plain(entry)) [[likely]] {
      note_place(walk, entry.offset());
      uint64_t cluster = geometry_.cluster_of(entry.offset()).value;
      if (!counts_.add(cluster, walk.times)) overflow(cluster);
      continue;
    }
    bool to_zero = !walk.quiet && judge_entry(walk, at / size, entry);
    if (to_zero) {
      status = co_await zero_entry(walk.table, at);
      if (!status.ok()) co_return status;
      --result_.corruptions;
      ++result_.corruptions_fixed;
      continue;
    }
    if (std::optional<ByteRange> range = range_of(entry))
      count(HostOffset(range->offset), range->bytes, walk.times);
  }
  co_return Status();
}

// Nothing can be wrong with it but its count.
bool Check::is_plain(const L2Entry& entry) const noexcept {
  constexpr uint64_t kUnusual = kCompressedFlag | kL2StandardReserved | kZeroFlag;
  return (entry.raw & kUnusual) == 0 && entry.bitmap == 0 && entry.offset().value != 0 &&
         geometry_.is_cluster_aligned(entry.offset().value) && entry.offset().value < file_bytes_ &&
         !image_.has_data_file();
}

void Check::note_place(Walk& walk, HostOffset at) const noexcept {
  ++walk.visit.allocated;
  if (walk.next_contiguous.value != 0 && at != walk.next_contiguous) ++walk.visit.fragmented;
  walk.next_contiguous = at + geometry_.cluster_size();
}

// Tables that are referred to more often than they were walked through.
Task<Status> Check::count_again() {
  for (auto& [table, visit] : visits_) {
    if (visit.more == 0) continue;
    Walk walk{.table = HostOffset(table), .times = visit.more, .quiet = true};
    Status status = co_await walk_table(walk);
    if (!status.ok()) co_return status;
  }
  co_return Status();
}

// What of the file the entry refers to.
std::optional<ByteRange> Check::range_of(const L2Entry& entry) const noexcept {
  if (image_.has_data_file()) return std::nullopt;
  switch (entry.kind(geometry_, false)) {
    case ClusterKind::compressed: {
      CompressedExtent extent = entry.extent(geometry_);
      return ByteRange{extent.offset.value, extent.bytes};
    }
    case ClusterKind::normal:
    case ClusterKind::zero_allocated:
      return ByteRange{entry.offset().value, geometry_.cluster_size()};
    case ClusterKind::unallocated:
    case ClusterKind::zero_plain:
      break;
  }
  return std::nullopt;
}

// True: the entry is to be replaced by one that reads as zeroes.
bool Check::judge_entry(Walk& walk, size_t index, const L2Entry& entry) {
  if (entry.has_reserved_bits())
    error("ERROR found l2 entry with reserved bits set: {:x}", entry.raw);
  switch (entry.kind(geometry_, image_.has_data_file())) {
    case ClusterKind::compressed:
      judge_compressed(walk, index, entry);
      return false;
    case ClusterKind::normal:
    case ClusterKind::zero_allocated:
      return judge_placed(walk, entry);
    case ClusterKind::unallocated:
      if ((entry.bitmap & L2Entry::kAllAllocated) != 0)
        error("ERROR: Unallocated cluster has non-zero subcluster allocation map");
      return false;
    case ClusterKind::zero_plain:
      break;
  }
  return false;
}

void Check::judge_compressed(Walk& walk, size_t index, L2Entry entry) {
  if (entry.copied()) {
    error("ERROR: coffset={:#x}: copied flag must never be set for compressed clusters",
          entry.raw & geometry_.compressed_offset_mask());
    entry.raw &= ~kCopiedFlag;
  }
  if (image_.has_data_file())
    return error("ERROR compressed cluster {} with data file, entry={:#x}", index, entry.raw);
  if (entry.bitmap != 0)
    return error(
        "ERROR compressed cluster {} with non-zero subcluster allocation bitmap, entry={:#x}",
        index, entry.raw);
  ++walk.visit.allocated;
  ++walk.visit.compressed;
  ++walk.visit.fragmented;
}

bool Check::judge_placed(Walk& walk, const L2Entry& entry) {
  HostOffset at = entry.offset();
  if ((entry.bitmap & entry.bitmap >> 32 & L2Entry::kAllAllocated) != 0)
    error("ERROR offset={:x}: Allocated cluster has corrupted subcluster allocation bitmap",
          at.value);
  if (!geometry_.is_cluster_aligned(at.value)) {
    bool has_data = geometry_.extended_l2() ? (entry.bitmap & L2Entry::kAllAllocated) != 0
                                            : (entry.raw & kZeroFlag) == 0;
    if (has_data) {
      error("ERROR offset={:x}: Data cluster is not properly aligned; L2 entry corrupted.",
            at.value);
    } else {
      error("{} offset={:x}: Preallocated cluster is not properly aligned; L2 entry corrupted.",
            verb(walk.fix.errors), at.value);
      if (walk.fix.errors) return true;
    }
  }
  note_place(walk, at);
  return false;
}

// EIO: the table lies over other metadata, or cannot be written.
Task<Status> Check::zero_entry(HostOffset table, size_t in_table) {
  HostOffset at = table + in_table;
  if (is_other_metadata(at)) {
    say("ERROR: Overlap check failed");
    ++result_.check_errors;
    co_return Status::error(EIO);
  }
  L2Entry zero = L2Entry::zero(HostOffset(), false, geometry_);
  std::vector<std::byte> bytes(geometry_.l2_entry_size());
  store_be<uint64_t>(bytes, 0, zero.raw);
  if (bytes.size() == 16) store_be<uint64_t>(bytes, 8, zero.bitmap);
  Status status = co_await image_.file_.write(at, bytes);
  if (!status.ok()) {
    say("ERROR: Failed to overwrite L2 table entry: {}",
        Error::describe_errno(status.error_number()));
    ++result_.check_errors;
  } else {
    image_.l2_.clear();
  }
  co_return status;
}

}  // namespace strata::qcow2
