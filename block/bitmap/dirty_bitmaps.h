// SPDX-License-Identifier: GPL-2.0-or-later
//
// The dirty bitmaps of one node.
#pragma once

#include <atomic>
#include <memory>
#include <string_view>
#include <vector>

#include "block/bitmap/dirty_bitmap.h"
#include "block/bitmap/short_lock.h"

namespace strata {

using DirtyBitmapPtr = std::shared_ptr<DirtyBitmap>;

class DirtyBitmaps {
 public:
  DirtyBitmaps() noexcept = default;
  ~DirtyBitmaps() { delete lock_.load(); }
  DirtyBitmaps(const DirtyBitmaps&) = delete;
  DirtyBitmaps& operator=(const DirtyBitmaps&) = delete;

  // --- Requests: any AioContext. A node without bitmaps costs a look at a pointer. ---

  // Whether there may be any.
  bool in_use() const noexcept { return lock_.load(std::memory_order_acquire) != nullptr; }
  // Notes that `range` has been changed; before whoever changed it is told. Never waits.
  void record(ByteRange range) noexcept {
    if (in_use()) [[unlikely]]
      record_in_all(range);
  }
  bool needs_cover(ByteRange range) const noexcept {
    return in_use() && first_uncovered(range) != nullptr;
  }
  // Before `range` is changed, and with that range held, if needs_cover(). An error: it must not be
  // changed.
  Task<Status> cover(ByteRange range);

  // --- Main loop ---

  const std::vector<DirtyBitmapPtr>& all() const noexcept { return all_; }
  bool empty() const noexcept { return all_.empty(); }
  // Null if there is none; anonymous ones have no name to be found by.
  DirtyBitmapPtr find(std::string_view name) const noexcept;
  // Throws Error if the name is taken.
  void add(DirtyBitmapPtr bitmap);
  void remove(const DirtyBitmap& bitmap) noexcept;
  void remove_persistent() noexcept;
  // Whether there are some that go when the node does, or with its image.
  bool has_named() const noexcept;

  // The node has another size now. Any thread.
  void resize(uint64_t size) noexcept;

 private:
  void record_in_all(ByteRange range) noexcept;
  DirtyBitmapPtr first_uncovered(ByteRange range) const noexcept;

  // Made with the first bitmap, and kept: requests read `all_` with it, the main loop changes it.
  std::atomic<ShortLock*> lock_{nullptr};
  std::vector<DirtyBitmapPtr> all_;
};

}  // namespace strata
