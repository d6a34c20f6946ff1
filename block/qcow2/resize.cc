// SPDX-License-Identifier: GPL-2.0-or-later
//
// Another size for the disk; room for it in advance.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "block/base/aligned_buffer.h"
#include "block/base/error.h"
#include "block/io/debug_event.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {
namespace {

void check(Status status, const char* what) {
  if (!status.ok()) throw Error::from_errno(status.error_number(), "{}", what);
}

// Metadata alone makes no room in the file.
qapi::PreallocMode preallocation_of_file(qapi::PreallocMode mode) noexcept {
  return mode == qapi::PreallocMode::metadata ? qapi::PreallocMode::off : mode;
}

// Clusters of a data file lie where the disk has them, so new ones can have been others before.
Task<Status> forget_stale(Edge& data, uint64_t from, uint64_t to, qapi::PreallocMode in_file) {
  uint64_t end = std::min(to, data.node().length());
  if (from >= end) co_return Status();
  WriteFlags flags;
  if (in_file == qapi::PreallocMode::off) flags |= WriteFlag::may_unmap;
  co_return co_await io::pwrite_zeroes(data, from, end - from, flags);
}

// As bytes, in less than a cluster, which has a place in the file then.
Task<Status> place_zeroes(Image& image, ByteRange range) {
  if (range.empty()) co_return Status();
  AlignedBuffer zeroes(range.bytes);
  if (!zeroes) co_return Status::error(ENOMEM);
  std::memset(zeroes.data(), 0, zeroes.size());
  co_return co_await image.write(range.offset, IoVector::buffer(zeroes.data(), range.bytes));
}

}  // namespace

Task<void> Image::resize(uint64_t size, TruncateOptions options) {
  uint64_t old_size = this->size();
  if (size % kSectorSize != 0) throw Error("The new size must be a multiple of {}", kSectorSize);
  if (!snapshots_.empty() && header_.version < 3)
    throw Error("Can't resize a v2 image which has snapshots");
  if (size < old_size && options.preallocation != qapi::PreallocMode::off)
    throw Error("Preallocation can't be used for shrinking an image");
  check(co_await before_first_write(), "Failed to update the image size");
  if (size < old_size) {
    check(co_await shrink(size), "Failed to discard cropped clusters");
    co_await settle_shrunk();
  } else if (size > old_size) {
    check(co_await drop_vm_state(size), "Failed to update the image size");
    if (geometry_.l1_entries_for(size) > l1_.size())
      check(co_await grow_l1(geometry_.l1_entries_for(size)), "Failed to grow the L1 table");
  }
  if (has_data_file() && (size > old_size || data_file_raw())) {
    qapi::PreallocMode in_file = preallocation_of_file(options.preallocation);
    if (options.preallocation != qapi::PreallocMode::off)
      check(co_await forget_stale(*data_, old_size, size, in_file),
            "Failed to clear the data file");
    co_await io::truncate(
        *data_, size, {.exact = size > old_size ? false : options.exact, .preallocation = in_file});
  }
  size_.store(size, std::memory_order_release);
  std::optional<Error> failure;
  try {
    co_await settle_size(old_size, size, options);
  } catch (const Error& error) {
    failure = error;
  }
  if (!failure) {
    // The disk has its size now, whatever becomes of what is left of the end.
    if (size < old_size) (void)co_await reclaim();
    co_return;
  }
  size_.store(old_size, std::memory_order_release);
  throw *failure;
}

// What the size means for clusters, and then for the header.
Task<void> Image::settle_size(uint64_t old_size, uint64_t size, TruncateOptions options) {
  constexpr const char* kText = "Failed to update the image size";
  bool preallocates = size > old_size && options.preallocation != qapi::PreallocMode::off;
  if (preallocates) unwritten_data_.store(Unwritten::unknown, std::memory_order_relaxed);
  if (preallocates) {
    // What the last cluster had before has to be in the one that takes its place.
    uint64_t aligned = std::min(size, geometry_.round_up(old_size));
    check(co_await place_zeroes(*this, {old_size, aligned - old_size}), kText);
    check(co_await preallocate(aligned, size, options), kText);
  } else if (size > old_size && options.zero_new_area) {
    check(co_await write_zero_bytes({old_size, size - old_size}), kText);
  }
  check(co_await write_back(), kText);
  Mutex::Lock lock = co_await writing_back_.lock();
  // A larger disk never shows what the zeroes hide.
  check(co_await flush_files(), kText);
  header_.size = size;
  Status status = co_await write_header();
  if (!status.ok()) header_.size = old_size;
  check(status, kText);
}

// As zero clusters where the format has them, else as bytes.
Task<Status> Image::write_zero_bytes(ByteRange range) {
  uint64_t cluster = geometry_.cluster_size();
  AlignedBuffer zeroes(cluster);
  if (!zeroes) co_return Status::error(ENOMEM);
  std::memset(zeroes.data(), 0, zeroes.size());
  while (!range.empty()) {
    uint64_t in_cluster = range.offset % cluster;
    uint64_t bytes = std::min(range.bytes, cluster - in_cluster);
    if (in_cluster == 0 && range.bytes > cluster) bytes = align_down(range.bytes, cluster);
    Status status = co_await write_zeroes(range.offset, bytes, false);
    if (status.error_number() == ENOTSUP) {
      bytes = std::min(bytes, cluster);
      status = co_await write(range.offset, IoVector::buffer(zeroes.data(), bytes));
    }
    if (!status.ok()) co_return status;
    range = {range.offset + bytes, range.bytes - bytes};
  }
  co_return Status();
}

// The new table is written whole, with entries that are all safe to be on the disk: nobody changes
// one meanwhile.
Task<Status> Image::grow_l1(uint64_t entries) {
  if (entries * 8 > kMaxL1Bytes) co_return Status::error(EFBIG);
  uint64_t clusters = geometry_.clusters_for(entries * 8);
  Mutex::Lock lock = co_await writing_back_.lock();
  if (entries <= l1_.size()) co_return Status();
  co_await io::debug_event(file_.edge(), qapi::BlkdebugEvent::l1_grow_alloc_table);
  Result<HostCluster> place = HostCluster();
  {
    Mutex::Lock metadata = co_await metadata_.lock();
    place = co_await allocate_clusters(clusters);
    if (!place) co_return place.status();
    refcounts_.take_fresh(*place, clusters);
  }
  Allocation allocation(*this, *place, clusters);
  Mutex::Lock metadata;
  for (;;) {
    Status status = co_await write_back_locked(true);
    if (!status.ok()) co_return status;
    metadata = co_await metadata_.lock();
    if (!l1_.is_dirty() && !l2_.is_dirty()) break;
    metadata.unlock();
  }
  HostOffset at = geometry_.offset_of(*place);
  co_await io::debug_event(file_.edge(), qapi::BlkdebugEvent::l1_grow_write_table);
  Status status = co_await write_l1(at, entries);
  if (status.ok()) status = co_await file_.flush();
  if (!status.ok()) co_return status;
  co_await io::debug_event(file_.edge(), qapi::BlkdebugEvent::l1_grow_activate_table);
  Header before = header_;
  header_.l1_table_offset = at.value;
  header_.l1_size = static_cast<uint32_t>(entries);
  status = co_await write_header();
  if (!status.ok()) {
    // Whether the disk has the old header or the new one is not known: neither table is free.
    header_ = before;
    allocation.linked();
    co_return status;
  }
  allocation.linked();
  free_later(geometry_.cluster_of(HostOffset(before.l1_table_offset)),
             geometry_.clusters_for(uint64_t{before.l1_size} * 8), FreedBy::other);
  l1_.grow(entries);
  for (uint64_t i = 0; i < clusters; ++i) filter_.add(*place + i);
  co_return Status();
}

// What is not mapped gets clusters that read as before: as zeroes, or with subclusters, unless what
// is below is not to be seen, as that.
Task<Status> Image::preallocate(uint64_t from, uint64_t to, TruncateOptions options) {
  qapi::PreallocMode in_file = preallocation_of_file(options.preallocation);
  bool hides = options.zero_new_area && in_file == qapi::PreallocMode::off;
  bool zeroes = header_.version >= 3 && (encryption_ || hides);
  GuestCluster end = geometry_.cluster_of(GuestOffset(geometry_.round_up(to)));
  for (GuestCluster at = geometry_.cluster_of(GuestOffset(from)); at < end;) {
    uint64_t in_slice = l2_.slice_entries() - l2_.index_in_slice(at);
    uint64_t most = std::min({in_slice, end - at, geometry_.refcount_block_entries() / 2 + 1});
    std::vector<L2Entry> entries(most);
    Status status = co_await read_entries(at, entries);
    if (!status.ok()) co_return status;
    auto is_free = [&](const L2Entry& entry) { return entry == L2Entry{}; };
    auto first = std::find_if(entries.begin(), entries.end(), is_free);
    auto last = std::find_if_not(first, entries.end(), is_free);
    if (first != last) {
      Plan plan;
      plan.way = Way::fresh;
      if (geometry_.extended_l2() && !options.zero_new_area)
        plan.as = Plan::As::unallocated;  // a backing file shows
      else if (zeroes)
        plan.as = Plan::As::zeroes;
      plan.first = at + static_cast<uint64_t>(first - entries.begin());
      plan.clusters = static_cast<uint64_t>(last - first);
      plan.range = plan.unit = {geometry_.offset_of(plan.first).value,
                                plan.clusters << geometry_.cluster_bits()};
      status = co_await allocate_and_link(plan, in_file);
      if (!status.ok()) co_return status;
    }
    at = at + static_cast<uint64_t>(last - entries.begin());
  }
  co_return co_await write_back();
}

Task<Status> Image::allocate_and_link(const Plan& plan, qapi::PreallocMode in_file) {
  if (has_data_file()) {
    HostOffset same(plan.range.offset);
    co_return co_await link(plan, same, nullptr);
  }
  Mutex::Lock lock = co_await metadata_.lock();
  Status prepared = co_await prepare_table(geometry_.l1_index(plan.first));
  if (!prepared.ok()) co_return prepared;
  Result<HostCluster> place = co_await allocate_clusters(plan.clusters);
  if (!place) co_return place.status();
  bool fresh = refcounts_.take_fresh(*place, plan.clusters);
  lock.unlock();
  Allocation allocation(*this, *place, plan.clusters);
  HostOffset host = geometry_.offset_of(*place);
  uint64_t end = host.value + plan.range.bytes;
  // At once, before metadata behind them makes these clusters a hole in the file, or an entry says
  // that they are there.
  const uint64_t length = file_.length();
  if (end > length)
    co_await io::truncate(file_.edge(), end, {.exact = false, .preallocation = in_file});
  // A refcount block that came with the clusters made a hole of them.
  bool hole = in_file != qapi::PreallocMode::off && end <= length;
  if (hole || !fresh || !file_.edge().node().driver().has_zero_init()) {
    Status status = co_await file_.write_zeroes(host, plan.range.bytes);
    if (!status.ok()) co_return status;
  }
  co_return co_await link(plan, host, &allocation);
}

// Who writes to a new cluster writes no zeroes behind the data.
Task<void> Image::fill_last_cluster() {
  uint64_t length = file_.length();
  bool written = announced_ && !is_unusable();
  if (!written || geometry_.is_cluster_aligned(length) || length >= refcounts_.end_of_use())
    co_return;
  try {
    co_await io::truncate(file_.edge(), geometry_.round_up(length), {.exact = false});
  } catch (const Error&) {
    // Not every file can be made longer, and nothing needs it.
  }
}

}  // namespace strata::qcow2
