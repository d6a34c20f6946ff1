// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/l2_cache.h"

#include <algorithm>
#include <cassert>

namespace strata::qcow2 {

void L2Cache::configure(const Geometry& geometry, uint64_t slice_bytes, uint64_t slices) {
  slice_bytes_ = slice_bytes;
  entries_ = slice_bytes / geometry.l2_entry_size();
  slices_per_table_ = geometry.cluster_size() / slice_bytes;
  words_per_entry_ = geometry.extended_l2() ? 2 : 1;
  ways_ = std::min<size_t>(kMaxWays, slices);
  sets_ = std::vector<Set>(std::max<uint64_t>(1, slices / ways_));
  slots_ = std::vector<Slot>(sets_.size() * ways_);
  for (size_t set = 0; set < sets_.size(); ++set) {
    for (size_t way = 0; way < ways_; ++way) slot(set, way).tag = &sets_[set].tags[way];
  }
}

// The acquire load of the version comes before the words, the fence keeps them before its second
// load; begin_change() and end_change() are the other side.
bool L2Cache::try_read(SliceIndex slice, unsigned first, std::span<L2Entry> out) const noexcept {
  size_t set = set_of(slice);
  for (size_t way = 0; way < ways_; ++way) {
    if (sets_[set].tags[way].load(std::memory_order_acquire) != slice.value + 1) continue;
    const Slot& found = slot(set, way);
    for (;;) {
      uint32_t version = found.version.load(std::memory_order_acquire);
      if (found.tag->load(std::memory_order_acquire) != slice.value + 1) break;
      if (version % 2 != 0) continue;  // a few stores are under way in another thread
      const std::atomic<uint64_t>* words = found.visible.load(std::memory_order_acquire);
      size_t at = size_t{first} * words_per_entry_;
      for (L2Entry& entry : out) {
        entry.raw = words[at].load(std::memory_order_relaxed);
        entry.bitmap = words_per_entry_ == 2 ? words[at + 1].load(std::memory_order_relaxed) : 0;
        at += words_per_entry_;
      }
      std::atomic_thread_fence(std::memory_order_acquire);
      if (found.version.load(std::memory_order_relaxed) != version) continue;
      uint32_t now = clock_.load(std::memory_order_relaxed);
      if (found.used.load(std::memory_order_relaxed) != now)
        found.used.store(now, std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

L2Cache::Slot* L2Cache::find(SliceIndex slice) noexcept {
  size_t set = set_of(slice);
  for (size_t way = 0; way < ways_; ++way) {
    if (slot(set, way).tag->load(std::memory_order_relaxed) == slice.value + 1)
      return &slot(set, way);
  }
  return nullptr;
}

void L2Cache::begin_change(Slot& changed) noexcept {
  changed.version.store(changed.version.load(std::memory_order_relaxed) + 1,
                        std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
}
void L2Cache::end_change(Slot& changed) noexcept {
  changed.version.store(changed.version.load(std::memory_order_relaxed) + 1,
                        std::memory_order_release);
}

L2Cache::Claim L2Cache::claim(SliceIndex slice) {
  std::lock_guard lock(mutex_);
  if (Slot* found = find(slice)) return {Claim::Kind::resident, found, nullptr};
  size_t set = set_of(slice);
  Slot* victim = nullptr;
  std::shared_ptr<Event> any;
  for (size_t way = 0; way < ways_; ++way) {
    Slot& candidate = slot(set, way);
    if (candidate.filling == slice.value + 1)
      return {Claim::Kind::wait, &candidate, candidate.event};
    if (candidate.filling != 0) {
      any = candidate.event;
      continue;
    }
    if (candidate.pins != 0) continue;  // dirty slices are pinned, too
    bool empty = candidate.tag->load(std::memory_order_relaxed) == 0;
    auto age = [&](const Slot& s) { return clock_.load() - s.used.load(); };
    if (victim == nullptr || empty || age(candidate) > age(*victim)) victim = &candidate;
    if (empty) break;
  }
  if (victim == nullptr) return {any ? Claim::Kind::wait : Claim::Kind::full, nullptr, any};
  clock_.fetch_add(1, std::memory_order_relaxed);
  victim->tag->store(0, std::memory_order_release);
  victim->filling = slice.value + 1;
  victim->event = std::make_shared<Event>();
  return {Claim::Kind::filling, victim, victim->event};
}

void L2Cache::filled(Claim& claim, SliceIndex slice, ConstBytes big_endian) noexcept {
  Slot& target = *claim.slot;
  size_t words = slice_bytes_ / 8;
  if (target.words == nullptr) {
    target.words = std::make_unique<std::atomic<uint64_t>[]>(words);
    target.visible.store(target.words.get(), std::memory_order_release);
  }
  {
    std::lock_guard lock(mutex_);
    begin_change(target);
    for (size_t i = 0; i < words; ++i)
      target.words[i].store(load_be<uint64_t>(big_endian, i * 8), std::memory_order_relaxed);
    end_change(target);
    target.slice = slice.value;
    target.used.store(clock_.load(), std::memory_order_relaxed);
    target.filling = 0;
    target.tag->store(slice.value + 1, std::memory_order_release);
  }
  claim.event->set();
}

void L2Cache::failed(Claim& claim) noexcept {
  {
    std::lock_guard lock(mutex_);
    claim.slot->filling = 0;
  }
  claim.event->set();
}

L2Cache::Pin L2Cache::try_pin(SliceIndex slice) noexcept {
  std::lock_guard lock(mutex_);
  Slot* found = find(slice);
  if (found == nullptr) return Pin();
  ++found->pins;
  return Pin(this, found);
}

void L2Cache::unpin(Slot& pinned) noexcept {
  std::lock_guard lock(mutex_);
  --pinned.pins;
}

L2Entry L2Cache::load(const Slot& from, unsigned index) const noexcept {
  size_t at = size_t{index} * words_per_entry_;
  L2Entry entry;
  entry.raw = from.words[at].load(std::memory_order_relaxed);
  if (words_per_entry_ == 2) entry.bitmap = from.words[at + 1].load(std::memory_order_relaxed);
  return entry;
}

void L2Cache::store(Slot& to, unsigned index, L2Entry entry) noexcept {
  size_t at = size_t{index} * words_per_entry_;
  begin_change(to);
  to.words[at].store(entry.raw, std::memory_order_relaxed);
  if (words_per_entry_ == 2) to.words[at + 1].store(entry.bitmap, std::memory_order_relaxed);
  end_change(to);
  if (!to.dirty) {
    to.dirty = true;
    to.dirty_pieces.assign((slice_bytes_ + kPieceBytes - 1) / kPieceBytes, false);
    dirty_.push_back(&to);
    std::lock_guard lock(mutex_);
    ++to.pins;
  }
  to.dirty_pieces[at * 8 / kPieceBytes] = true;
}

L2Cache::DirtySlices L2Cache::take_dirty() {
  DirtySlices taken;
  for (Slot* slot : dirty_) {
    taken.pins.push_back(Pin(this, slot));  // the pin that being dirty was
    slot->dirty = false;
    for (size_t piece = 0; piece < slot->dirty_pieces.size(); ++piece) {
      if (!slot->dirty_pieces[piece]) continue;
      DirtyPiece out{SliceIndex(slot->slice), piece * kPieceBytes, {}};
      out.bytes.resize(std::min<uint64_t>(kPieceBytes, slice_bytes_ - out.offset));
      for (size_t word = 0; word < out.bytes.size() / 8; ++word)
        store_be<uint64_t>(out.bytes, word * 8,
                           slot->words[out.offset / 8 + word].load(std::memory_order_relaxed));
      taken.pieces.push_back(std::move(out));
    }
  }
  dirty_.clear();
  return taken;
}

void L2Cache::mark_dirty(const DirtySlices& again) noexcept {
  for (const DirtyPiece& piece : again.pieces) {
    Slot* slot = find(piece.slice);
    assert(slot != nullptr);
    if (!slot->dirty) {
      slot->dirty = true;
      slot->dirty_pieces.assign((slice_bytes_ + kPieceBytes - 1) / kPieceBytes, false);
      dirty_.push_back(slot);
      std::lock_guard lock(mutex_);
      ++slot->pins;
    }
    slot->dirty_pieces[piece.offset / kPieceBytes] = true;
  }
}

void L2Cache::clear() noexcept {
  std::lock_guard lock(mutex_);
  assert(dirty_.empty());
  for (Slot& slot : slots_) slot.tag->store(0, std::memory_order_release);
}

}  // namespace strata::qcow2
