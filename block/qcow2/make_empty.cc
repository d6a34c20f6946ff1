// SPDX-License-Identifier: GPL-2.0-or-later
//
// A disk that has nothing of its own any more, after its data went to the image below it.
#include <algorithm>
#include <cerrno>
#include <vector>

#include "block/base/error.h"
#include "block/io/debug_event.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {
namespace {

// An image that starts over: header, refcount table, its one block, L1 table.
constexpr uint64_t kTable = 1;
constexpr uint64_t kBlock = 2;
constexpr uint64_t kL1 = 3;

using qapi::BlkdebugEvent;

}  // namespace

Task<Status> Image::make_empty() {
  if (is_unusable()) co_return Status::error(EIO);
  Status status = co_await before_first_write();
  if (status.ok()) status = co_await settle();
  if (!status.ok()) co_return status;
  if (can_start_over()) co_return co_await start_over();
  uint64_t end = geometry_.round_up(size());
  if (end != 0) status = co_await forget_clusters({0, end});
  if (status.ok()) status = co_await settle();
  co_return status;
}

// They become nothing, whatever is below.
Task<Status> Image::forget_clusters(ByteRange range) {
  Status status = co_await wipe_clusters(range, Wipe::forget);
  if (!status.ok() || !has_data_file() || data_file_raw()) co_return status;
  // Not before nothing refers to it: after a power cut the mapping may still be there.
  status = co_await settle();
  uint64_t end = std::min(range.end(), data_->node().length());
  if (!status.ok() || range.offset >= end) co_return status;
  co_return co_await io::pdiscard(*data_, range.offset, end - range.offset);
}

// Where nothing but the disk itself is in the file, and what is left needs one refcount block.
bool Image::can_start_over() const noexcept {
  bool alone = snapshots_.empty() && !extensions_.bitmaps && !extensions_.crypto;
  uint64_t used = kL1 + geometry_.clusters_for(l1_.size() * 8);
  return header_.version >= 3 && alone && !has_data_file() &&
         used <= geometry_.refcount_block_entries();
}

// Takes no longer for a full disk than for an empty one, and leaves a file that is as short as a
// new one. The image carries the dirty bit meanwhile: whoever opens it after a power cut counts
// anew what there is. What fails is done again before anything else is changed.
Task<Status> Image::start_over() {
  const bool was_dirty = header_.has(kIncompatibleDirty);
  Status status = co_await set_dirty_bit(true);
  if (!status.ok()) co_return status;
  {
    Mutex::Lock lock = co_await writing_back_.lock();
    if (!was_dirty) lazily_dirty_ = true;  // clean with the rest
    Mutex::Lock metadata = co_await metadata_.lock();
    l1_.resize(l1_.size());
    l2_.clear();
    emptying_ = true;
    announced_ = false;
    metadata.unlock();
    status = co_await finish_emptying();
  }
  if (status.ok()) status = co_await settle();
  co_return status;
}

// With the lock of what is written back. First nothing is referred to, then the structure is there,
// then the header says so; each may be done twice.
Task<Status> Image::finish_emptying() {
  co_await io::debug_event(file_.edge(), BlkdebugEvent::l1_update);
  Status status = co_await file_.write_zeroes(HostOffset(header_.l1_table_offset), l1_.size() * 8);
  if (status.ok()) status = co_await file_.flush();
  if (status.ok()) status = co_await write_empty_structure();
  if (!status.ok()) co_return status;
  emptying_ = false;
  uint64_t used = kL1 + geometry_.clusters_for(l1_.size() * 8);
  try {
    co_await io::truncate(file_.edge(), used << geometry_.cluster_bits(), {.exact = false});
  } catch (const Error& error) {
    status = Status::error(error.error_number() != 0 ? error.error_number() : EIO);
  }
  co_return status;
}

Task<Status> Image::write_empty_structure() {
  const uint64_t cluster = geometry_.cluster_size();
  const uint64_t used = kL1 + geometry_.clusters_for(l1_.size() * 8);
  Mutex::Lock metadata = co_await metadata_.lock();
  co_await io::debug_event(file_.edge(), BlkdebugEvent::empty_image_prepare);
  Status status = co_await file_.write_zeroes(HostOffset(kTable * cluster), (used - 1) * cluster);
  if (status.ok()) status = co_await file_.flush();
  if (!status.ok()) co_return status;
  co_await io::debug_event(file_.edge(), BlkdebugEvent::reftable_update);
  Header before = header_;
  header_.refcount_table_offset = kTable * cluster;
  header_.refcount_table_clusters = 1;
  header_.l1_table_offset = kL1 * cluster;
  status = co_await write_header();
  if (!status.ok()) {
    header_ = before;
    co_return status;
  }
  refcounts_.configure(geometry_, file_, std::vector<uint64_t>(cluster / 8),
                       HostOffset(kTable * cluster), this);
  guard_range(0, used * cluster);
  co_await io::debug_event(file_.edge(), BlkdebugEvent::cluster_alloc);
  co_return co_await refcounts_.start_over(HostCluster(kBlock), used);
}

}  // namespace strata::qcow2
