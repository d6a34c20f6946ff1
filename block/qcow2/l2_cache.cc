// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/l2_cache.h"

#include <algorithm>
#include <cassert>

namespace strata::qcow2 {

struct L2Cache::Storage {
  uint64_t slice_bytes = 0;
  Geometry geometry;
  std::vector<Set> sets;
  std::vector<Slot> slots;
  SliceMemory memory;
  CompactSlices compact;
};

void L2Cache::StorageDeleter::operator()(Storage* storage) const noexcept {
  delete storage;
}

L2Cache::StoragePtr L2Cache::make_storage(const Geometry& geometry, uint64_t slice_bytes,
                                          uint64_t slices, uint64_t compact_bytes) {
  StoragePtr storage(new Storage);
  size_t ways = std::min<size_t>(kMaxWays, slices);
  storage->slice_bytes = slice_bytes;
  storage->geometry = geometry;
  storage->sets = std::vector<Set>(std::max<uint64_t>(1, slices / ways));
  storage->slots = std::vector<Slot>(storage->sets.size() * ways);
  storage->memory.allocate(slice_bytes, storage->slots.size());
  storage->compact.configure(geometry, compact_bytes);
  for (size_t i = 0; i < storage->slots.size(); ++i) {
    storage->slots[i].tag = &storage->sets[i / ways].tags[i % ways];
    storage->slots[i].words = storage->memory.words(i);
  }
  return storage;
}

void L2Cache::use(StoragePtr storage) noexcept {
  assert(dirty_.empty() && first_ == nullptr);
  slice_bytes_ = storage->slice_bytes;
  entries_ = slice_bytes_ / storage->geometry.l2_entry_size();
  slices_per_table_ = storage->geometry.cluster_size() / slice_bytes_;
  words_per_entry_ = storage->geometry.extended_l2() ? 2 : 1;
  ways_ = storage->slots.size() / storage->sets.size();
  sets_.swap(storage->sets);
  slots_.swap(storage->slots);
  memory_.swap(storage->memory);
  compact_ = std::move(storage->compact);
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
      const uint64_t* words = found.words + size_t{first} * words_per_entry_;
      for (L2Entry& entry : out) {
        entry.raw = load_word(words[0]);
        entry.bitmap = words_per_entry_ == 2 ? load_word(words[1]) : 0;
        words += words_per_entry_;
      }
      std::atomic_thread_fence(std::memory_order_acquire);
      if (found.version.load(std::memory_order_relaxed) != version) continue;
      uint32_t now = clock_.load(std::memory_order_relaxed);
      if (found.used.load(std::memory_order_relaxed) != now)
        found.used.store(now, std::memory_order_relaxed);
      return true;
    }
  }
  return compact_.try_read(slice, first, out);
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

L2Cache::Slot* L2Cache::find(SliceIndex slice) noexcept {
  size_t set = set_of(slice);
  for (size_t way = 0; way < ways_; ++way) {
    if (slot(set, way).owner == slice.value + 1) return &slot(set, way);
  }
  return nullptr;
}

// What has been unused for longest, if anything is free to go.
L2Cache::Slot* L2Cache::choose_victim(size_t set) noexcept {
  Slot* victim = nullptr;
  auto age = [&](const Slot& s) { return clock_.load() - s.used.load(); };
  for (size_t way = 0; way < ways_; ++way) {
    Slot& candidate = slot(set, way);
    if (candidate.pins != 0) continue;  // dirty slices are pinned, too
    if (candidate.owner == 0) return &candidate;
    if (victim == nullptr || age(candidate) > age(*victim)) victim = &candidate;
  }
  return victim;
}

// Its words may be needed once more by nobody but a reader who will see that the version changed.
void L2Cache::evict(Slot& old) noexcept {
  if (old.owner == 0) return;
  compact_.put(SliceIndex(old.owner - 1), old.words, entries_);
  begin_change(old);
  old.tag->store(0, std::memory_order_release);
  end_change(old);
  old.owner = 0;
}

bool L2Cache::serve(Waiter& waiter) noexcept {
  uint64_t tag = waiter.slice_.value + 1;
  Slot* found = find(waiter.slice_);
  if (found != nullptr && !is_filled(*found)) return false;  // somebody fills it
  if (found == nullptr) {
    found = choose_victim(set_of(waiter.slice_));
    if (found == nullptr) return false;
    evict(*found);
    found->owner = tag;
    found->used.store(clock_.fetch_add(1), std::memory_order_relaxed);
    begin_change(*found);
    waiter.fill_ = !compact_.take(waiter.slice_, found->words, entries_);
    end_change(*found);
    if (!waiter.fill_) found->tag->store(tag, std::memory_order_release);
  }
  ++found->pins;
  waiter.slot_ = found;
  return true;
}

bool L2Cache::dirt_is_in_the_way(size_t set) const noexcept {
  size_t dirty = 0;
  for (size_t way = 0; way < ways_; ++way)
    dirty += slot(set, way).dirty.load(std::memory_order_relaxed) ? 1 : 0;
  return 2 * dirty >= ways_;
}

// Everybody who can be: each place that became free goes to whoever has waited for it longest.
void L2Cache::serve_all(ResumptionList& go) noexcept {
  for (Waiter* waiter = first_; waiter != nullptr;) {
    Waiter& current = *waiter;
    waiter = waiter->next_;
    bool served = serve(current);
    if (served) dequeue(current);
    if (!served && !current.makes_room_ && find(current.slice_) == nullptr)
      current.makes_room_ = dirt_is_in_the_way(set_of(current.slice_));
    if ((served || current.makes_room_) && std::exchange(current.suspended_, false))
      go.push(current.resumption_);
  }
}

void L2Cache::enqueue(Waiter& waiter) noexcept {
  waiter.queued_ = true;
  waiter.previous_ = last_;
  waiter.next_ = nullptr;
  (last_ != nullptr ? last_->next_ : first_) = &waiter;
  last_ = &waiter;
}

void L2Cache::dequeue(Waiter& waiter) noexcept {
  waiter.queued_ = false;
  (waiter.previous_ != nullptr ? waiter.previous_->next_ : first_) = waiter.next_;
  (waiter.next_ != nullptr ? waiter.next_->previous_ : last_) = waiter.previous_;
}

// A newcomer overtakes nobody: while somebody waits for a place in a set, there is none.
L2Cache::Waiter::Waiter(L2Cache& cache, SliceIndex slice) noexcept : cache_(cache), slice_(slice) {
  std::lock_guard lock(cache.mutex_);
  at_once_ = cache.serve(*this);
  if (!at_once_) cache.enqueue(*this);
}

bool L2Cache::Waiter::has_slot() noexcept {
  if (at_once_) return true;
  std::lock_guard lock(cache_.mutex_);
  return slot_ != nullptr;
}

L2Cache::Waiter::~Waiter() {
  cache_.leave(*this);
}

void L2Cache::leave(Waiter& waiter) noexcept {
  ResumptionList go;
  {
    std::lock_guard lock(mutex_);
    if (waiter.queued_) dequeue(waiter);
    if (waiter.slot_ != nullptr) {
      --waiter.slot_->pins;
      if (waiter.fill_) waiter.slot_->owner = 0;
    }
    serve_all(go);
  }
  go.resume_all_later();
}

bool L2Cache::begin_wait(Waiter& waiter) noexcept {
  std::lock_guard lock(mutex_);
  if (waiter.slot_ != nullptr) return true;
  waiter.makes_room_ = find(waiter.slice_) == nullptr && dirt_is_in_the_way(set_of(waiter.slice_));
  return waiter.makes_room_;
}

// True: it has to wait.
bool L2Cache::suspend(Waiter& waiter, std::coroutine_handle<> caller) noexcept {
  waiter.resumption_.suspend(caller);
  std::lock_guard lock(mutex_);
  if (waiter.slot_ != nullptr || waiter.makes_room_) return false;
  waiter.suspended_ = true;
  return true;
}

void L2Cache::Waiter::filled(ConstBytes big_endian) noexcept {
  ResumptionList go;
  {
    std::lock_guard lock(cache_.mutex_);
    cache_.begin_change(*slot_);
    for (size_t i = 0; i < big_endian.size() / 8; ++i)
      store_word(slot_->words[i], load_be<uint64_t>(big_endian, i * 8));
    cache_.end_change(*slot_);
    slot_->tag->store(slice_.value + 1, std::memory_order_release);
    fill_ = false;
    cache_.serve_all(go);
  }
  go.resume_all_later();
}

L2Cache::Pin L2Cache::try_pin(SliceIndex slice) noexcept {
  std::lock_guard lock(mutex_);
  Slot* found = find(slice);
  if (found == nullptr || !is_filled(*found)) return Pin();
  ++found->pins;
  return Pin(this, found);
}

void L2Cache::unpin(Slot& pinned) noexcept {
  ResumptionList go;
  {
    std::lock_guard lock(mutex_);
    if (--pinned.pins == 0 || first_ != nullptr) serve_all(go);
  }
  go.resume_all_later();
}

L2Entry L2Cache::load(const Slot& from, unsigned index) const noexcept {
  const uint64_t* word = from.words + size_t{index} * words_per_entry_;
  return {load_word(word[0]), words_per_entry_ == 2 ? load_word(word[1]) : 0};
}

void L2Cache::store(Slot& to, unsigned index, L2Entry entry) noexcept {
  size_t at = size_t{index} * words_per_entry_;
  begin_change(to);
  store_word(to.words[at], entry.raw);
  if (words_per_entry_ == 2) store_word(to.words[at + 1], entry.bitmap);
  end_change(to);
  set_dirty(to);
  to.dirty_pieces[at * 8 / kPieceBytes] = true;
}

void L2Cache::set_dirty(Slot& changed) noexcept {
  if (changed.dirty.load(std::memory_order_relaxed)) return;
  changed.dirty_pieces.assign((slice_bytes_ + kPieceBytes - 1) / kPieceBytes, false);
  dirty_.push_back(&changed);
  std::lock_guard lock(mutex_);
  changed.dirty.store(true, std::memory_order_relaxed);
  ++changed.pins;
}

L2Cache::DirtySlices L2Cache::take_dirty() {
  DirtySlices taken;
  for (Slot* slot : dirty_) {
    taken.pins.push_back(Pin(this, slot));  // the pin that being dirty was
    slot->dirty.store(false, std::memory_order_relaxed);
    for (size_t piece = 0; piece < slot->dirty_pieces.size(); ++piece) {
      if (!slot->dirty_pieces[piece]) continue;
      DirtyPiece out{SliceIndex(slot->owner - 1), piece * kPieceBytes, {}};
      out.bytes.resize(std::min<uint64_t>(kPieceBytes, slice_bytes_ - out.offset));
      for (size_t word = 0; word < out.bytes.size() / 8; ++word)
        store_be<uint64_t>(out.bytes, word * 8, load_word(slot->words[out.offset / 8 + word]));
      taken.pieces.push_back(std::move(out));
    }
  }
  dirty_.clear();
  return taken;
}

void L2Cache::mark_dirty(const DirtySlices& again) noexcept {
  for (const DirtyPiece& piece : again.pieces) {
    mutex_.lock();
    Slot* slot = find(piece.slice);
    mutex_.unlock();
    assert(slot != nullptr);
    set_dirty(*slot);
    slot->dirty_pieces[piece.offset / kPieceBytes] = true;
  }
}

void L2Cache::clear() noexcept {
  std::lock_guard lock(mutex_);
  assert(dirty_.empty());
  for (Slot& slot : slots_) {
    slot.tag->store(0, std::memory_order_release);
    slot.owner = 0;
  }
  compact_.clear();
}

void L2Cache::forget_unused() noexcept {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    bool unused = static_cast<int32_t>(slot.used.load() - cleaned_at_) < 0;
    if (slot.owner == 0 || slot.pins != 0 || !unused) continue;
    evict(slot);
    memory_.give_back(i);
  }
  cleaned_at_ = clock_.fetch_add(1, std::memory_order_relaxed) + 1;
}

}  // namespace strata::qcow2
