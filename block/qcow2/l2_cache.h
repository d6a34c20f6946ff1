// SPDX-License-Identifier: GPL-2.0-or-later
//
// L2Cache: slices of the active L2 tables in memory.
//
// A slice is found by its position in the virtual disk, so a hit asks neither the L1 table nor a
// lock: it is a sequence lock over words that are themselves atomic. Memory of slices is never
// given to others while the image is open, so a reader that comes too late reads old words, sees
// that the version has changed, and looks again.
//
// Who misses, or wants to change a slice, pins it: a pinned slice stays until the pin goes, so
// nobody loads a slice only to see it go before it was used. Where every place is pinned, those
// who come wait in the order of their coming. Changed slices are pinned until they are written
// back; when they are in the way, one of those who wait is told to see to that. A coroutine holds
// one pin at a time, and waits for nothing but I/O and the metadata lock while it does.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "block/base/bytes.h"
#include "block/coro/executor.h"
#include "block/qcow2/compact_slices.h"
#include "block/qcow2/format/entries.h"
#include "block/qcow2/slice_memory.h"

namespace strata::qcow2 {

class L2Cache {
 public:
  static constexpr size_t kPieceBytes = 4096;  // what is written back at once

  L2Cache() noexcept = default;

  struct Storage;
  struct StorageDeleter {
    void operator()(Storage* storage) const noexcept;
  };
  using StoragePtr = std::unique_ptr<Storage, StorageDeleter>;
  // The memory of a cache. `slice_bytes` is a power of two between 512 and a cluster; `slices` at
  // least 1. `compact_bytes` are for what does not fit. Throws std::bad_alloc.
  static StoragePtr make_storage(const Geometry& geometry, uint64_t slice_bytes, uint64_t slices,
                                 uint64_t compact_bytes = 0);
  // Forgets everything, and goes on with this. As with clear().
  void use(StoragePtr storage) noexcept;
  void configure(const Geometry& geometry, uint64_t slice_bytes, uint64_t slices,
                 uint64_t compact_bytes = 0) {
    use(make_storage(geometry, slice_bytes, slices, compact_bytes));
  }

  uint64_t slice_bytes() const noexcept { return slice_bytes_; }
  uint64_t slice_entries() const noexcept { return entries_; }
  uint64_t slices_per_table() const noexcept { return slices_per_table_; }
  SliceIndex slice_of(GuestCluster cluster) const noexcept {
    return SliceIndex(cluster.value / entries_);
  }
  unsigned index_in_slice(GuestCluster cluster) const noexcept {
    return static_cast<unsigned>(cluster.value % entries_);
  }
  L1Index l1_index(SliceIndex slice) const noexcept {
    return L1Index(slice.value / slices_per_table_);
  }
  // Of the slice in its table.
  uint64_t byte_offset(SliceIndex slice) const noexcept {
    return slice.value % slices_per_table_ * slice_bytes_;
  }

  // Any context, without waiting: copies the entries from `first` on. False: not in the cache.
  bool try_read(SliceIndex slice, unsigned first, std::span<L2Entry> out) const noexcept;

 private:
  struct Slot;

 public:
  // A slice that stays in the cache while this lives.
  class [[nodiscard]] Pin {
   public:
    Pin() noexcept = default;
    Pin(Pin&& other) noexcept : cache_(std::exchange(other.cache_, nullptr)), slot_(other.slot_) {}
    Pin& operator=(Pin&& other) noexcept {
      std::swap(cache_, other.cache_);
      std::swap(slot_, other.slot_);
      return *this;
    }
    ~Pin() {
      if (cache_ != nullptr) cache_->unpin(*slot_);
    }
    explicit operator bool() const noexcept { return cache_ != nullptr; }
    L2Entry load(unsigned index) const noexcept { return cache_->load(*slot_, index); }
    // With the metadata lock. Marks the slice dirty.
    void store(unsigned index, L2Entry entry) noexcept { cache_->store(*slot_, index, entry); }

   private:
    friend class L2Cache;
    Pin(L2Cache* cache, Slot* slot) noexcept : cache_(cache), slot_(slot) {}
    L2Cache* cache_ = nullptr;
    Slot* slot_ = nullptr;
  };

  // Somebody who wants a slice pinned:
  //
  //   L2Cache::Waiter waiter(cache, slice);
  //   while (!co_await waiter.turn()) { write back; leave if that fails }
  //   if (waiter.must_fill()) { read the slice; waiter.filled(...) }
  //   L2Cache::Pin pin = waiter.take();
  //
  // Who must fill and goes without having filled leaves it to the next one.
  class [[nodiscard]] Waiter {
   public:
    Waiter(L2Cache& cache, SliceIndex slice) noexcept;
    ~Waiter();
    Waiter(const Waiter&) = delete;
    Waiter& operator=(const Waiter&) = delete;

    // False: dirty slices are in the way, and it is this waiter who writes them back.
    auto turn() noexcept {
      struct Awaiter {
        Waiter& waiter;
        bool await_ready() const noexcept { return waiter.begin_wait(); }
        bool await_suspend(std::coroutine_handle<> caller) noexcept {
          return waiter.cache_.suspend(waiter, caller);
        }
        bool await_resume() const noexcept { return waiter.has_slot(); }
      };
      return Awaiter{*this};
    }
    bool must_fill() const noexcept { return fill_; }
    void filled(ConstBytes big_endian) noexcept;
    Pin take() noexcept { return Pin(&cache_, std::exchange(slot_, nullptr)); }

   private:
    friend class L2Cache;
    bool begin_wait() noexcept { return at_once_ || cache_.begin_wait(*this); }
    bool has_slot() noexcept;

    L2Cache& cache_;
    SliceIndex slice_;
    bool at_once_ = false;  // needed no waiting
    // Guarded by the cache's mutex until its turn has come.
    Slot* slot_ = nullptr;
    bool fill_ = false;
    bool queued_ = false;
    bool suspended_ = false;
    bool makes_room_ = false;
    Resumption resumption_;
    Waiter* previous_ = nullptr;
    Waiter* next_ = nullptr;
  };

  // --- Metadata lock ---

  // Empty if it is not in the cache.
  Pin try_pin(SliceIndex slice) noexcept;
  bool is_dirty() const noexcept { return !dirty_.empty(); }

  // What is to be written of a dirty slice; it stays in the cache until `pin` goes.
  struct DirtyPiece {
    SliceIndex slice;
    uint64_t offset = 0;  // in the slice
    std::vector<std::byte> bytes;
  };
  struct DirtySlices {
    std::vector<Pin> pins;
    std::vector<DirtyPiece> pieces;
  };
  // All of it; the slices are clean afterwards.
  DirtySlices take_dirty();
  // What was taken could not be written.
  void mark_dirty(const DirtySlices& again) noexcept;

  // Forgets everything. Nothing is dirty, pinned or being filled, and no request is there.
  void clear() noexcept;
  // Any context: gives back the memory of slices that nobody has used since this was last called.
  void forget_unused() noexcept;
  // The number of slices that may be held at once.
  uint64_t capacity() const noexcept { return sets_.size() * ways_; }

 private:
  static constexpr size_t kMaxWays = 8;

  // Which slices a set holds, in one cache line for readers.
  struct alignas(64) Set {
    std::array<std::atomic<uint64_t>, kMaxWays> tags{};  // slice number + 1; 0: nothing
  };
  struct Slot {
    std::atomic<uint32_t> version{0};  // odd while words change
    mutable std::atomic<uint32_t> used{0};
    uint64_t* words = nullptr;  // in the host's byte order
    std::atomic<uint64_t>* tag = nullptr;
    // Guarded by mutex_.
    uint64_t owner = 0;  // slice number + 1, from when it is to be filled on
    int pins = 0;
    std::atomic<bool> dirty{false};  // changes with the metadata lock
    // Guarded by the metadata lock.
    std::vector<bool> dirty_pieces;
  };

  size_t set_of(SliceIndex slice) const noexcept { return slice.value % sets_.size(); }
  Slot& slot(size_t set, size_t way) noexcept { return slots_[set * ways_ + way]; }
  const Slot& slot(size_t set, size_t way) const noexcept { return slots_[set * ways_ + way]; }
  bool is_filled(const Slot& slot) const noexcept {
    return slot.owner != 0 && slot.tag->load(std::memory_order_relaxed) == slot.owner;
  }
  L2Entry load(const Slot& slot, unsigned index) const noexcept;
  void store(Slot& slot, unsigned index, L2Entry entry) noexcept;
  void set_dirty(Slot& slot) noexcept;
  void unpin(Slot& slot) noexcept;
  void begin_change(Slot& slot) noexcept;
  void end_change(Slot& slot) noexcept;

  // With mutex_.
  Slot* find(SliceIndex slice) noexcept;
  Slot* choose_victim(size_t set) noexcept;
  void evict(Slot& slot) noexcept;
  bool serve(Waiter& waiter) noexcept;  // true: it has its slot
  void serve_all(ResumptionList& go) noexcept;
  bool dirt_is_in_the_way(size_t set) const noexcept;
  void enqueue(Waiter& waiter) noexcept;
  void dequeue(Waiter& waiter) noexcept;

  bool begin_wait(Waiter& waiter) noexcept;  // false: it has to wait
  bool suspend(Waiter& waiter, std::coroutine_handle<> caller) noexcept;
  void leave(Waiter& waiter) noexcept;

  uint64_t slice_bytes_ = 0;
  uint64_t entries_ = 1;
  uint64_t slices_per_table_ = 1;
  unsigned words_per_entry_ = 1;
  size_t ways_ = 1;
  std::vector<Set> sets_;
  std::vector<Slot> slots_;
  SliceMemory memory_;
  CompactSlices compact_;
  mutable std::atomic<uint32_t> clock_{0};
  std::mutex mutex_;
  uint32_t cleaned_at_ = 0;   // mutex_
  Waiter* first_ = nullptr;   // mutex_: in the order of their coming
  Waiter* last_ = nullptr;    // mutex_
  std::vector<Slot*> dirty_;  // metadata lock
};

}  // namespace strata::qcow2
