// SPDX-License-Identifier: GPL-2.0-or-later
//
// A dirty bitmap: which parts of a disk were written to since it was made, or cleared.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "block/base/math.h"
#include "block/base/result.h"
#include "block/bitmap/bit_tree.h"
#include "block/coro/task.h"

namespace strata {

class DirtyBitmap;

// Whoever keeps a persistent bitmap on the disk ahead of the writes that it records, so that what
// is there never has too few bits.
class BitmapKeeper {
 public:
  virtual ~BitmapKeeper() = default;
  // `range` is about to be written: makes the disk say that it is dirty, and then the bitmap's
  // cover. Any AioContext; on success the bitmap needs no cover there any more.
  virtual Task<Status> cover(std::shared_ptr<DirtyBitmap> bitmap, ByteRange range) = 0;
};

class DirtyBitmap {
 public:
  static constexpr uint64_t kLongestName = 1023;
  static constexpr uint64_t kLeastGranularity = 512;

  // Enabled. `granularity`: bytes a bit stands for, a power of two. Throws Error where there is no
  // memory for it.
  DirtyBitmap(std::string name, uint64_t size, uint64_t granularity);
  // What is left of a bitmap that cannot be relied on: its name and granularity. It records
  // nothing, and is of no use but to be removed.
  static std::shared_ptr<DirtyBitmap> inconsistent(std::string name, uint64_t size,
                                                   uint64_t granularity);

  // Empty: an anonymous one, somebody's tool.
  const std::string& name() const noexcept { return name_; }
  uint64_t granularity() const noexcept { return uint64_t{1} << shift_; }
  // Bytes of the disk.
  uint64_t size() const noexcept { return size_.load(std::memory_order_acquire); }
  uint64_t bit_count() const noexcept { return std::min(bits_for(size()), tree().size()); }

  // --- Recording and looking: any thread. Ranges are bytes; what lies behind the end is ignored.

  bool is_enabled() const noexcept { return enabled_.load(std::memory_order_relaxed); }
  // If enabled.
  void record(ByteRange range) noexcept {
    if (is_enabled()) set(range);
  }
  void set(ByteRange range) noexcept;
  // All granules that the range touches.
  void reset(ByteRange range) noexcept;
  bool is_dirty(uint64_t offset) const noexcept;
  // The first dirty area in [from, end), no longer than `most` bytes.
  std::optional<ByteRange> next_dirty_area(uint64_t from, uint64_t end,
                                           uint64_t most = UINT64_MAX) const noexcept;
  // A first part of `range`, which is not empty and lies inside, that is all dirty or all clean.
  struct Extent {
    uint64_t bytes = 0;
    bool dirty = false;
  };
  Extent extent(ByteRange range) const noexcept;
  // Dirty granules, as bytes.
  uint64_t dirty_bytes() const noexcept { return tree().count(0, bit_count()) << shift_; }
  // What lies behind bit_count() is not set.
  const BitTree& bits() const noexcept { return tree(); }
  // Whether something has been set or cleared since take_changed().
  bool take_changed() noexcept { return changed_.exchange(false); }
  void note_changed() noexcept { changed_ = true; }

  // --- What may be done with it: main loop ---

  bool is_persistent() const noexcept { return persistent_; }
  bool is_read_only() const noexcept { return read_only_; }
  bool is_inconsistent() const noexcept { return inconsistent_; }
  bool is_busy() const noexcept { return busy_ != 0; }
  void set_enabled(bool enabled) noexcept { enabled_ = enabled && !inconsistent_; }
  void set_persistent(bool persistent) noexcept { persistent_ = persistent; }
  void set_read_only(bool read_only) noexcept { read_only_ = read_only; }

  enum class Use { change, read, remove };
  // Throws Error if its state forbids that.
  void check(Use use) const;
  // Sets what is dirty in `from`, whose granularity may be another. Throws Error if the sizes
  // differ.
  void merge(const DirtyBitmap& from);
  void check_mergeable(const DirtyBitmap& from) const;

  // --- The bits as bytes, the first bit of each the least significant ---

  uint64_t serialized_bytes() const noexcept { return (bit_count() + 7) / 8; }
  // `offset` is a multiple of 8. What lies behind the end is zeroes.
  void serialize(uint64_t offset, std::span<std::byte> out) const noexcept;
  // Nobody else uses the bitmap. False if a bit behind the end is set.
  bool deserialize(uint64_t offset, std::span<const std::byte> bytes) noexcept;
  void deserialize_ones(uint64_t offset, uint64_t bytes) noexcept;

  // --- Cover, see BitmapKeeper. Nobody writes to the node while a keeper is set. ---

  // Bits are covered in groups of so many.
  static constexpr uint64_t kGroupBits = 512;
  // False where there is no memory for it.
  bool keep(BitmapKeeper& keeper) noexcept;
  void keep_no_more() noexcept { keeper_.store(nullptr); }
  BitmapKeeper* keeper() const noexcept { return keeper_.load(std::memory_order_acquire); }
  bool needs_cover(ByteRange range) const noexcept;
  // One bit a group: the disk says that all of it is dirty. Only while there is a keeper.
  BitTree& covered() const noexcept { return *covered_.load(std::memory_order_acquire); }

 private:
  friend class DirtyBitmaps;
  friend class BusyBitmap;

  struct Bits {
    uint64_t first = 0;
    uint64_t count = 0;
  };
  BitTree& tree() const noexcept { return *tree_.load(std::memory_order_acquire); }
  uint64_t bits_for(uint64_t bytes) const noexcept {
    return (bytes >> shift_) + ((bytes & (granularity() - 1)) != 0 ? 1 : 0);
  }
  Bits bits_of(ByteRange range) const noexcept;
  // Nobody records meanwhile, but others may look. Where there is no memory for that the bitmap
  // becomes inconsistent.
  void resize(uint64_t size) noexcept;

  std::string name_;
  std::atomic<uint64_t> size_;
  unsigned shift_;
  std::atomic<BitTree*> tree_{nullptr};
  std::atomic<BitTree*> covered_{nullptr};
  // What the pointers lead to, and led to: somebody may still be looking.
  std::vector<std::unique_ptr<BitTree>> trees_;
  std::atomic<bool> enabled_{true};
  std::atomic<bool> changed_{false};
  std::atomic<BitmapKeeper*> keeper_{nullptr};
  bool persistent_ = false;
  bool read_only_ = false;
  std::atomic<bool> inconsistent_{false};
  int busy_ = 0;
};

// While it lives, others may not change the bitmap, and may not use it for themselves. Main loop.
class BusyBitmap {
 public:
  BusyBitmap() noexcept = default;
  explicit BusyBitmap(std::shared_ptr<DirtyBitmap> bitmap) noexcept : bitmap_(std::move(bitmap)) {
    ++bitmap_->busy_;
  }
  BusyBitmap(BusyBitmap&&) noexcept = default;
  BusyBitmap& operator=(BusyBitmap&& other) noexcept {
    std::swap(bitmap_, other.bitmap_);
    return *this;
  }
  ~BusyBitmap() {
    if (bitmap_ != nullptr) --bitmap_->busy_;
  }

  DirtyBitmap& operator*() const noexcept { return *bitmap_; }
  DirtyBitmap* operator->() const noexcept { return bitmap_.get(); }
  const std::shared_ptr<DirtyBitmap>& get() const noexcept { return bitmap_; }

 private:
  std::shared_ptr<DirtyBitmap> bitmap_;
};

}  // namespace strata
