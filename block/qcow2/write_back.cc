// SPDX-License-Identifier: GPL-2.0-or-later
//
// The order in which metadata reaches the disk. Each step is stable before the next begins:
//
//   1. refcounts that went up (blocks, then the table that points to them, then the header)
//   2. data, and what was copied for it
//   3. L2 entries that point to it
//   4. L1 entries that point to the L2 tables
//   5. only now clusters that nothing points to any more are given back: when those who may still
//      read them have ended, they are discarded, and their refcounts go down (and to the disk with
//      the next round)
//
// So wherever the power fails, everything that is pointed to is there and is counted: the worst
// that is left behind is a cluster that is counted and not used.
#include <algorithm>
#include <cerrno>

#include "block/io/debug_event.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {
namespace {

bool is_unflushed(Node& file) noexcept {
  return !file.options().cache_no_flush && file.io().dirty.load(std::memory_order_relaxed);
}

}  // namespace

Task<Status> Image::write_back() {
  Mutex::Lock lock = co_await writing_back_.lock();
  co_return co_await write_back_locked();
}

void Image::clean_caches() noexcept {
  l2_.forget_unused();
  // Whoever holds the lock uses them.
  if (Mutex::Lock lock = metadata_.try_lock()) refcounts_.forget_unused();
}

// One round serves all who asked before it began.
Task<Status> Image::make_room() {
  uint64_t asked = rounds_begun_.load();
  Mutex::Lock lock = co_await writing_back_.lock();
  if (rounds_begun_.load() > asked && last_round_.ok()) co_return Status();
  co_return co_await write_back_locked();
}

// Before anything refers to a cluster whose count is not on the disk.
Task<Status> Image::mark_dirty() {
  if (flags_in_doubt_) dirty_before_ = lazily_dirty_ = true;
  if (header_.has(kIncompatibleDirty)) co_return Status();
  header_.incompatible |= kIncompatibleDirty;
  Status status = co_await write_header();
  if (status.ok())
    lazily_dirty_ = true;
  else
    header_.incompatible &= ~kIncompatibleDirty;
  co_return status;
}

// After everything was written.
Task<Status> Image::mark_clean() {
  if (!lazily_dirty_ || flags_in_doubt_) co_return Status();
  header_.incompatible &= ~kIncompatibleDirty;
  Status status = co_await write_header();
  if (status.ok())
    lazily_dirty_ = false;
  else
    header_.incompatible |= kIncompatibleDirty;
  co_return status;
}

// What is in memory of a corrupt image is not to be trusted: it stays there.
Task<Status> Image::mark_corrupt() {
  if (header_.version >= 3 && !header_.has(kIncompatibleCorrupt) && node_.is_writable()) {
    header_.incompatible |= kIncompatibleCorrupt;
    Status status = co_await write_header();
    if (!status.ok()) co_return status;
  }
  co_return Status::error(EIO);
}

Task<Status> Image::write_back_locked(bool all) {
  if (abandoned_) co_return Status::error(EIO);
  if (is_unusable()) co_return co_await mark_corrupt();
  if (header_in_doubt_) {
    Status status = co_await write_header();
    if (!status.ok()) co_return status;
  }
  if (emptying_) {
    Status status = co_await finish_emptying();
    if (!status.ok()) co_return status;
  }
  ++rounds_begun_;
  Dirty dirty = co_await take_dirty(all || !settings_.lazy_refcounts);
  Status status = co_await write_dirty(dirty);
  last_round_ = status;
  if (!status.ok()) {
    co_await put_back(dirty, status);
    co_return status;
  }
  {
    Mutex::Lock lock = co_await metadata_.lock();
    refcounts_.written(dirty.refcounts);
    dirty.l2.pins.clear();
  }
  if (dirty.refcounts.moved) {
    const Refcounts::Dirty::Move& move = *dirty.refcounts.moved;
    dirty.freed.push_back(
        {geometry_.cluster_of(move.old_offset), move.old_clusters, FreedBy::other});
  }
  if (!dirty.freed.empty()) retired_.push_back({epochs_.now(), std::move(dirty.freed)});
  co_return co_await reap();
}

Task<Image::Dirty> Image::take_dirty(bool all) {
  Mutex::Lock lock = co_await metadata_.lock();
  Dirty dirty;
  if (all || refcounts_.is_crowded()) dirty.refcounts = refcounts_.take_dirty();
  for (const Refcounts::DirtyPiece& piece : dirty.refcounts.blocks)
    filter_.add(geometry_.cluster_of(piece.at));
  dirty.l2 = l2_.take_dirty();
  for (const L2Cache::DirtyPiece& piece : dirty.l2.pieces) {
    HostOffset table = l1_.load(l2_.l1_index(piece.slice)).offset();
    dirty.l2_places.push_back(table + l2_.byte_offset(piece.slice) + piece.offset);
  }
  for (size_t piece : l1_.take_dirty()) {
    size_t first = piece * L1Table::kEntriesPerPiece;
    if (first >= l1_.size()) continue;
    size_t count = std::min(L1Table::kEntriesPerPiece, l1_.size() - first);
    dirty.l1.emplace_back(first, l1_.encode(first, count));
  }
  std::lock_guard freed(freed_mutex_);
  dirty.freed = std::exchange(freed_, {});
  freed_clusters_ = discarded_clusters_ = 0;
  co_return dirty;
}

Task<void> Image::put_back(Dirty& dirty, Status why) {
  Mutex::Lock lock = co_await metadata_.lock();
  refcounts_.mark_dirty(dirty.refcounts);
  l2_.mark_dirty(dirty.l2);
  dirty.l2.pins.clear();
  for (const auto& [first, bytes] : dirty.l1) l1_.mark_dirty(first / L1Table::kEntriesPerPiece);
  for (const Freed& freed : dirty.freed) free_later(freed.first, freed.clusters, freed.by);
}

Task<Status> Image::flush_files() {
  Status status = co_await file_.flush();
  if (status.ok() && has_data_file()) status = co_await io::flush(data_->node());
  co_return status;
}

Task<Status> Image::write_dirty(Dirty& dirty) {
  bool tables = !dirty.l2.pieces.empty() || !dirty.l1.empty();
  Status status;
  if (tables && settings_.lazy_refcounts) status = co_await mark_dirty();
  if (status.ok()) status = co_await write_refcounts(dirty);
  if (status.ok() && tables) status = co_await flush_files();
  if (status.ok() && tables) status = co_await write_tables(dirty);
  if (status.ok() && !dirty.freed.empty()) status = co_await flush_files();
  co_return status;
}

Task<Status> Image::write_refcounts(Dirty& dirty) {
  for (const Refcounts::DirtyPiece& piece : dirty.refcounts.blocks) {
    co_await io::debug_event(file_.edge(), qapi::BlkdebugEvent::refblock_update_part);
    Status status = co_await file_.write(piece.at, piece.bytes);
    if (!status.ok()) co_return status;
  }
  bool moves = dirty.refcounts.moved.has_value();
  if (!moves && dirty.refcounts.table.empty()) co_return Status();
  Status status = co_await file_.flush();
  for (const Refcounts::DirtyPiece& piece : dirty.refcounts.table) {
    if (status.ok()) status = co_await file_.write(piece.at, piece.bytes);
  }
  if (status.ok()) status = co_await file_.flush();
  if (!status.ok() || !moves) co_return status;
  const Refcounts::Dirty::Move& move = *dirty.refcounts.moved;
  co_return co_await point_to_refcount_table(move.offset, move.clusters);
}

Task<Status> Image::point_to_refcount_table(HostOffset offset, uint64_t clusters) {
  co_await io::debug_event(file_.edge(), qapi::BlkdebugEvent::refblock_alloc_switch_table);
  Header before = header_;
  header_.refcount_table_offset = offset.value;
  header_.refcount_table_clusters = static_cast<uint32_t>(clusters);
  Status status = co_await write_header();
  if (status.ok())
    guard_range(offset.value, clusters * geometry_.cluster_size());
  else
    header_ = before;
  co_return status;
}

// In the wrong order of locks, and so only if nobody has the first.
Task<Status> Image::switch_refcount_table(HostOffset offset, uint64_t clusters) {
  Mutex::Lock lock = writing_back_.try_lock();
  if (!lock) co_return Status::error(EBUSY);
  co_return co_await point_to_refcount_table(offset, clusters);
}

Task<Status> Image::write_tables(Dirty& dirty) {
  for (size_t i = 0; i < dirty.l2.pieces.size(); ++i) {
    co_await io::debug_event(file_.edge(), qapi::BlkdebugEvent::l2_update);
    Status status = co_await file_.write(dirty.l2_places[i], dirty.l2.pieces[i].bytes);
    if (!status.ok()) co_return status;
  }
  if (dirty.l1.empty()) co_return Status();
  Status status = co_await file_.flush();
  HostOffset table(header_.l1_table_offset);
  co_await io::debug_event(file_.edge(), qapi::BlkdebugEvent::l1_update);
  for (const auto& [first, bytes] : dirty.l1) {
    if (status.ok()) status = co_await file_.write(table + first * 8, bytes);
  }
  co_return status;
}

// Gives back what is out of everybody's hands. What is not yet has its turn with a later round.
Task<Status> Image::reap() {
  if (retired_.empty()) co_return Status();
  epochs_.try_advance();
  epochs_.try_advance();
  while (!retired_.empty() && retired_.front().epoch + 2 <= epochs_.now()) {
    Retired retired = std::move(retired_.front());
    retired_.erase(retired_.begin());
    for (const Freed& freed : retired.freed) co_await release(freed);
  }
  co_return Status();
}

// Discarded while they still count as used, so that nobody else has them yet. A cluster that cannot
// be given back is a leak, and no reason for anybody's request to fail.
Task<void> Image::release(const Freed& freed) {
  bool discard = (freed.by == FreedBy::request && settings_.discard_request) ||
                 (freed.by == FreedBy::snapshot && settings_.discard_snapshot) ||
                 (freed.by == FreedBy::other && settings_.discard_other);
  for (uint64_t i = 0; discard && i < freed.clusters;) {
    uint64_t last = i;
    {
      Mutex::Lock lock = co_await metadata_.lock();
      for (; last < freed.clusters; ++last) {
        Result<uint64_t> count = co_await refcounts_.get(freed.first + last);
        if (!count || *count != 1) break;
        refcounts_.close_for_bytes(freed.first + last);
      }
    }
    if (last > i) {
      HostOffset at = geometry_.offset_of(freed.first + i);
      (void)co_await io::pdiscard(file_.edge(), at.value, (last - i) << geometry_.cluster_bits());
    }
    i = last + 1;
  }
  Mutex::Lock lock = co_await metadata_.lock();
  for (uint64_t i = 0; i < freed.clusters; ++i) {
    Status status = co_await refcounts_.decrease(freed.first + i, 1);
    if (unfreed_ == 0) unfreed_ = status.error_number();
  }
  signal_refcounts();
}

Task<Status> Image::settle() {
  Mutex::Lock lock = co_await writing_back_.lock();
  for (int round = 0; round < 8; ++round) {
    Status status = co_await write_back_locked(true);
    if (!status.ok()) co_return status;
    Mutex::Lock metadata = co_await metadata_.lock();
    bool clean = !refcounts_.is_dirty() && !l2_.is_dirty() && !l1_.is_dirty() &&
                 freed_clusters_ == 0 && retired_.empty();
    if (clean) break;
  }
  Status status = co_await flush_files();
  if (status.ok()) status = co_await mark_clean();
  co_return status;
}

bool Image::is_settled() const noexcept {
  if (is_unflushed(file_.edge().node())) return false;
  if (has_data_file() && is_unflushed(data_->node())) return false;
  bool clean = !refcounts_.is_dirty() && !l2_.is_dirty() && !l1_.is_dirty() && !flags_in_doubt_;
  return clean && freed_clusters_ == 0 && retired_.empty() && !lazily_dirty_ && !header_in_doubt_ &&
         !emptying_;
}

// The header is written whole: it lies in one cluster, of which the first sector holds all fields.
// It is on the medium when this has succeeded. When it has failed, nobody knows what the disk has:
// until the header that memory has could be written, no other metadata is.
Task<Status> Image::write_header() {
  auto bytes = encode_header(header_, extensions_, backing_name_);
  if (!bytes) co_return Status::error(bytes.error().error);
  size_t used = bytes->size();
  while (used > 512 && (*bytes)[used - 1] == std::byte{0}) --used;
  // The zeroes that end the extensions are written, too: longer ones may have been there.
  used = std::min(bytes->size(), align_up(used + 8, 512));
  header_in_doubt_ = true;
  Status status = co_await file_.write(HostOffset(0), ConstBytes(*bytes).first(used));
  if (status.ok()) status = co_await file_.flush();
  header_in_doubt_ = !status.ok();
  co_return status;
}

Task<Status> Image::clear_broken_flags() {
  Mutex::Lock lock = co_await writing_back_.lock();
  if (!header_.has(kIncompatibleDirty | kIncompatibleCorrupt)) co_return Status();
  header_.incompatible &= ~(kIncompatibleDirty | kIncompatibleCorrupt);
  Status status = co_await write_header();
  if (status.ok()) unusable_ = false;
  co_return status;
}

Task<Status> Image::change_backing_file(std::string name, std::optional<std::string> format) {
  Mutex::Lock lock = co_await writing_back_.lock();
  Header header = header_;
  std::string old_name = std::exchange(backing_name_, std::move(name));
  std::optional<std::string> old_format = std::exchange(extensions_.backing_format, format);
  Status status = co_await write_header();
  if (status.ok()) co_return status;
  header_ = header;
  backing_name_ = std::move(old_name);
  extensions_.backing_format = std::move(old_format);
  co_return status;
}

// Features that this code does not keep up are taken off, before anything is changed.
Task<Status> Image::drop_unknown_features() {
  Mutex::Lock lock = co_await writing_back_.lock();
  co_return co_await drop_unknown_features_locked();
}

Task<Status> Image::drop_unknown_features_locked() {
  if ((header_.autoclear & ~kAutoclearKnown) == 0) co_return Status();
  header_.autoclear &= kAutoclearKnown;
  co_return co_await write_header();
}

// Once, before anything is changed.
Task<Status> Image::before_first_write() {
  if (announced_.load(std::memory_order_acquire)) co_return Status();
  Mutex::Lock lock = co_await writing_back_.lock();
  if (announced_.load(std::memory_order_acquire)) co_return Status();
  Status status;
  if (emptying_) status = co_await finish_emptying();
  if (status.ok()) status = co_await drop_unknown_features_locked();
  if (status.ok() && settings_.lazy_refcounts) status = co_await mark_dirty();
  if (status.ok()) {
    status = co_await load_inactive_tables();
    unguarded_ = status.error_number();
  }
  if (status.ok()) announced_.store(true, std::memory_order_release);
  co_return status;
}

}  // namespace strata::qcow2
