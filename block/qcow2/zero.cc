// SPDX-License-Identifier: GPL-2.0-or-later
//
// Zeroes and discards: changes of the mapping alone.
#include <algorithm>
#include <cerrno>

#include "block/io/block_status.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {

// Parts of subclusters only where nothing or the rest of them is zero already; else the caller
// writes zero bytes.
Task<Status> Image::write_zeroes(uint64_t offset, uint64_t bytes, bool may_unmap) {
  if (is_unusable()) co_return unusable();
  Status status = co_await before_first_write();
  if (!status.ok()) co_return status;
  if (data_file_raw() && encryption_) co_return Status::error(ENOTSUP);
  if (data_file_raw()) co_return co_await io::pwrite_zeroes(*data_, offset, bytes);
  ByteRange range{offset, bytes};
  uint64_t unit = geometry_.subcluster_size();
  // What lies behind the end of the disk in its last cluster need not be kept.
  if (range.end() == size()) range.bytes = align_up(range.end(), unit) - offset;
  if (!is_aligned(range.offset | range.bytes, unit)) {
    if (header_.version >= 3) co_return co_await zero_part(range);
    bool zero = co_await reads_as_zero(range);
    co_return zero ? Status() : Status::error(ENOTSUP);
  }
  if (header_.version < 3) {
    // There is no way to say zero; but where there is nothing below, nothing is zero.
    if (!backing_is_zero(range)) co_return Status::error(ENOTSUP);
    bool zero = co_await reads_as_zero(range);
    co_return zero ? Status() : Status::error(ENOTSUP);
  }
  uint64_t size = geometry_.cluster_size();
  uint64_t first = align_up(range.offset, size);
  uint64_t last = align_down(range.end(), size);
  if (first >= last) {
    status = co_await zero_subclusters({range.offset, std::min(first, range.end()) - range.offset});
    if (status.ok() && first < range.end())
      status = co_await zero_subclusters({first, range.end() - first});
    co_return status;
  }
  if (range.offset < first)
    status = co_await zero_subclusters({range.offset, first - range.offset});
  if (status.ok())
    status = co_await wipe_clusters({first, last - first},
                                    may_unmap ? Wipe::zero_and_unmap : Wipe::zero);
  if (status.ok() && last < range.end())
    status = co_await zero_subclusters({last, range.end() - last});
  co_return status;
}

// Whole clusters only; the rest of the advice is not taken.
Task<Status> Image::discard(uint64_t offset, uint64_t bytes) {
  if (is_unusable()) co_return unusable();
  Status status = co_await before_first_write();
  if (!status.ok()) co_return status;
  uint64_t size_of_cluster = geometry_.cluster_size();
  uint64_t end = offset + bytes == size() ? align_up(offset + bytes, size_of_cluster)
                                          : align_down(offset + bytes, size_of_cluster);
  uint64_t first = align_up(offset, size_of_cluster);
  if (first >= end) co_return Status::error(ENOTSUP);
  if (header_.version < 3 && backing() != nullptr) co_return Status::error(ENOTSUP);
  co_return co_await wipe_clusters({first, end - first}, Wipe::discard);
}

// Whether so many entries of the L1 table refer to no more tables than can be there, each in a
// cluster of its own: else it could take for ever to go through them.
bool Image::tables_fit(L1Index first, uint64_t count) const noexcept {
  uint64_t most = geometry_.clusters_for(std::max(file_.length(), refcounts_.end_of_use()));
  uint64_t tables = 0;
  for (L1Index at = first; count > most && at < first + count && tables <= most; ++at)
    if (l1_.load(at).offset().value != 0) ++tables;
  return tables <= most;
}

Task<Status> Image::wipe_clusters(ByteRange range, Wipe how) {
  GuestCluster at = geometry_.cluster_of(GuestOffset(range.offset));
  uint64_t left = range.bytes >> geometry_.cluster_bits();
  if (!tables_fit(geometry_.l1_index(at), left / geometry_.l2_entries())) {
    signal_corruption("There are more L2 tables than clusters", std::nullopt, 0, true);
    co_return Status::error(EIO);
  }
  bool nothing_to_nothing = how == Wipe::forget || (how == Wipe::discard && backing() == nullptr);
  while (left != 0) {
    if (nothing_to_nothing && l1_.load(geometry_.l1_index(at)).offset().value == 0) {
      uint64_t count = std::min(left, geometry_.l2_entries() - geometry_.l2_index(at).value);
      at = at + count;
      left -= count;
      continue;
    }
    uint64_t count = std::min(left, l2_.slice_entries() - l2_.index_in_slice(at));
    ByteRange bytes{geometry_.offset_of(at).value, count << geometry_.cluster_bits()};
    RangeLock::Hold hold(allocating_, bytes, RangeLock::Mode::exclusive);
    co_await hold.acquire();
    std::vector<ByteRange> discards;
    Status status = co_await wipe_in_slice(at, count, how, discards);
    if (!status.ok()) co_return status;
    for (ByteRange discard : discards) {
      status = co_await io::pdiscard(*data_, discard.offset, discard.bytes);
      if (!status.ok()) co_return status;
    }
    at = at + count;
    left -= count;
    if (freed_clusters_.load(std::memory_order_relaxed) > kMostFreedAtOnce) {
      hold.release();
      status = co_await write_back();
      if (!status.ok()) co_return status;
    }
  }
  if (freed_clusters_.load(std::memory_order_relaxed) > 4096) co_return co_await write_back();
  co_return Status();
}

// What becomes of a whole cluster's entry; nothing if it stays as it is.
std::optional<L2Entry> Image::wiped_entry(const L2Entry& old, Wipe how) const noexcept {
  if (how == Wipe::forget) {
    if (old == L2Entry{}) return std::nullopt;
    return L2Entry{};
  }
  ClusterKind kind = old.kind(geometry_, has_data_file());
  bool all_zero = geometry_.extended_l2() && old.bitmap == L2Entry::kAllZeroes;
  if (kind == ClusterKind::unallocated && !all_zero) {
    // A discard of nothing leaves it nothing, if nothing is below.
    if (how == Wipe::discard && backing() == nullptr) return std::nullopt;
    return L2Entry::zero(HostOffset(), false, geometry_);
  }
  if (kind == ClusterKind::unallocated || kind == ClusterKind::zero_plain) return std::nullopt;
  bool keep = how == Wipe::zero || (how == Wipe::discard && settings_.discard_no_unref) ||
              (has_data_file() && how != Wipe::discard);
  if (kind == ClusterKind::compressed) keep = false;
  if (keep) {
    L2Entry kept = L2Entry::zero(old.offset(), old.copied(), geometry_);
    if (kept == old) return std::nullopt;
    return kept;
  }
  if (header_.version < 3) return L2Entry{};
  return L2Entry::zero(HostOffset(), false, geometry_);
}

Task<Status> Image::wipe_in_slice(GuestCluster first, uint64_t clusters, Wipe how,
                                  std::vector<ByteRange>& keep_but_discard) {
  Changing changing;
  Status status = co_await begin_change(changing, l2_.slice_of(first));
  if (!status.ok()) co_return status;
  unsigned index = l2_.index_in_slice(first);
  for (uint64_t i = 0; i < clusters; ++i, ++index) {
    L2Entry old = changing.slice.load(index);
    std::optional<L2Entry> entry = wiped_entry(old, how);
    if (!entry) continue;
    changing.slice.store(index, *entry);
    bool gone = old.is_compressed() || old.offset() != entry->offset();
    if (has_data_file() && (how == Wipe::discard || how == Wipe::zero_and_unmap))
      keep_but_discard.push_back({geometry_.offset_of(first + i).value, geometry_.cluster_size()});
    else if (!gone && how == Wipe::discard && settings_.discard_request && old.copied())
      keep_but_discard.push_back({old.offset().value, geometry_.cluster_size()});
    if (gone) free_entry(old, how == Wipe::forget ? FreedBy::snapshot : FreedBy::request);
  }
  co_return Status();
}

// Less than a unit of zeroes. Where nothing but zeroes is around it in its unit, and no data that
// would have to be kept, all of the unit becomes zero.
Task<Status> Image::zero_part(ByteRange range) {
  uint64_t unit = geometry_.subcluster_size();
  ByteRange whole{align_down(range.offset, unit), unit};
  if (range.end() > whole.end()) co_return Status::error(ENOTSUP);
  RangeLock::Hold hold(allocating_, whole, RangeLock::Mode::exclusive);
  co_await hold.acquire();
  Result<Run> run = co_await lookup(GuestOffset(whole.offset), unit);
  if (!run) co_return run.status();
  if (run->get_if<Unallocated>() == nullptr && run->get_if<Zero>() == nullptr)
    co_return Status::error(ENOTSUP);
  bool zero = co_await chain_reads_as_zero({whole.offset, range.offset - whole.offset});
  if (zero) zero = co_await chain_reads_as_zero({range.end(), whole.end() - range.end()});
  if (!zero) co_return Status::error(ENOTSUP);
  if (geometry_.extended_l2()) co_return co_await mark_zero(whole);
  std::vector<ByteRange> none;  // nothing is freed
  co_return co_await wipe_in_slice(geometry_.cluster_of(GuestOffset(whole.offset)), 1, Wipe::zero,
                                   none);
}

// Part of one cluster.
Task<Status> Image::zero_subclusters(ByteRange range) {
  if (!geometry_.extended_l2()) co_return Status::error(ENOTSUP);
  RangeLock::Hold hold(allocating_, range, RangeLock::Mode::exclusive);
  co_await hold.acquire();
  co_return co_await mark_zero(range);
}

// Whole subclusters of one cluster, which is held.
Task<Status> Image::mark_zero(ByteRange range) {
  GuestCluster cluster = geometry_.cluster_of(GuestOffset(range.offset));
  Changing changing;
  Status status = co_await begin_change(changing, l2_.slice_of(cluster));
  if (!status.ok()) co_return status;
  unsigned index = l2_.index_in_slice(cluster);
  L2Entry entry = changing.slice.load(index);
  if (entry.is_compressed()) co_return Status::error(ENOTSUP);
  uint64_t start = geometry_.offset_of(cluster).value;
  for (uint64_t at = range.offset; at < range.end(); at += geometry_.subcluster_size()) {
    uint64_t bit = (at - start) / geometry_.subcluster_size();
    entry.bitmap &= ~(uint64_t{1} << bit);
    entry.bitmap |= uint64_t{1} << (bit + 32);
  }
  changing.slice.store(index, entry);
  co_return Status();
}

Task<bool> Image::reads_as_zero(ByteRange range) {
  uint64_t end = std::min(range.end(), size());
  for (uint64_t at = range.offset; at < end;) {
    Result<Run> run = co_await lookup(GuestOffset(at), end - at);
    if (!run) co_return false;
    bool zero = run->get_if<Zero>() != nullptr ||
                (run->get_if<Unallocated>() != nullptr && backing_is_zero({at, run->bytes}));
    if (!zero) co_return false;
    at += run->bytes;
  }
  co_return true;
}

// What lies behind the end of the disk counts as zero.
Task<bool> Image::chain_reads_as_zero(ByteRange range) {
  uint64_t end = std::min(range.end(), size());
  for (uint64_t at = range.offset; at < end;) {
    Result<Run> run = co_await lookup(GuestOffset(at), end - at);
    if (!run) co_return false;
    uint64_t bytes = run->bytes;
    bool zero = run->get_if<Zero>() != nullptr;
    if (run->get_if<Unallocated>() != nullptr) {
      zero = backing_is_zero({at, bytes});
      if (!zero) {
        auto below = co_await io::block_status_above(backing()->node(), nullptr, true, at, bytes,
                                                     StatusWant::mapping);
        if (!below || below->status.bytes == 0) co_return false;
        zero = below->status.flags.has(StatusFlag::zero);
        bytes = std::min(bytes, below->status.bytes);
      }
    }
    if (!zero) co_return false;
    at += bytes;
  }
  co_return true;
}

}  // namespace strata::qcow2
