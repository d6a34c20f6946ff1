// SPDX-License-Identifier: GPL-2.0-or-later
//
// L2Cache: slices of the active L2 tables in memory.
//
// A slice is found by its position in the virtual disk, so a hit asks neither the L1 table nor a
// lock: it is a sequence lock over words that are themselves atomic. Memory of slices is never
// given back to others while the image is open, so a reader that comes too late reads old words,
// sees that the version has changed, and looks again.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "block/base/bytes.h"
#include "block/base/result.h"
#include "block/coro/event.h"
#include "block/coro/task.h"
#include "block/qcow2/format/entries.h"

namespace strata::qcow2 {

// Slices are numbered through the whole virtual disk.
using SliceIndex = Index<struct SliceIndexTag>;

class L2Cache {
 public:
  static constexpr size_t kPieceBytes = 4096;  // what is written back at once

  L2Cache() noexcept = default;
  // `slice_bytes` is a power of two between 512 and a cluster; `slices` at least 1.
  void configure(const Geometry& geometry, uint64_t slice_bytes, uint64_t slices);

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
  // A slot to be filled, or somebody to wait for.
  struct Claim {
    enum class Kind { resident, filling, wait, full } kind;
    Slot* slot = nullptr;
    std::shared_ptr<Event> event;  // wait: set when it has been filled, or failed
  };
  // full: every slot that could take it is dirty or pinned; write back, then try again.
  Claim claim(SliceIndex slice);
  // Ends a claim to fill.
  void filled(Claim& claim, SliceIndex slice, ConstBytes big_endian) noexcept;
  void failed(Claim& claim) noexcept;

  // --- Metadata lock ---

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
    // Marks the slice dirty.
    void store(unsigned index, L2Entry entry) noexcept { cache_->store(*slot_, index, entry); }

   private:
    friend class L2Cache;
    Pin(L2Cache* cache, Slot* slot) noexcept : cache_(cache), slot_(slot) {}
    L2Cache* cache_ = nullptr;
    Slot* slot_ = nullptr;
  };
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
    std::unique_ptr<std::atomic<uint64_t>[]> words;  // in the host's byte order
    std::atomic<std::atomic<uint64_t>*> visible{nullptr};
    std::atomic<uint64_t>* tag = nullptr;
    // Guarded by mutex_.
    int pins = 0;
    uint64_t filling = 0;  // slice number + 1
    std::shared_ptr<Event> event;
    // Guarded by the metadata lock.
    bool dirty = false;
    uint64_t slice = 0;
    std::vector<bool> dirty_pieces;
  };

  size_t set_of(SliceIndex slice) const noexcept { return slice.value % sets_.size(); }
  Slot& slot(size_t set, size_t way) noexcept { return slots_[set * ways_ + way]; }
  const Slot& slot(size_t set, size_t way) const noexcept { return slots_[set * ways_ + way]; }
  Slot* find(SliceIndex slice) noexcept;
  L2Entry load(const Slot& slot, unsigned index) const noexcept;
  void store(Slot& slot, unsigned index, L2Entry entry) noexcept;
  void unpin(Slot& slot) noexcept;
  void begin_change(Slot& slot) noexcept;
  void end_change(Slot& slot) noexcept;

  uint64_t slice_bytes_ = 0;
  uint64_t entries_ = 1;
  uint64_t slices_per_table_ = 1;
  unsigned words_per_entry_ = 1;
  size_t ways_ = 1;
  std::vector<Set> sets_;
  std::vector<Slot> slots_;
  mutable std::atomic<uint32_t> clock_{0};
  std::mutex mutex_;
  std::vector<Slot*> dirty_;  // metadata lock
};

}  // namespace strata::qcow2
