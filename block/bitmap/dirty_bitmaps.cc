// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/bitmap/dirty_bitmaps.h"

#include <algorithm>

#include "block/base/error.h"

namespace strata {

void DirtyBitmaps::record_in_all(ByteRange range) noexcept {
  ShortLock::Reader reader(*lock_.load(std::memory_order_acquire));
  for (const DirtyBitmapPtr& bitmap : all_) bitmap->record(range);
}

DirtyBitmapPtr DirtyBitmaps::first_uncovered(ByteRange range) const noexcept {
  ShortLock::Reader reader(*lock_.load(std::memory_order_acquire));
  for (const DirtyBitmapPtr& bitmap : all_) {
    if (bitmap->needs_cover(range)) return bitmap;
  }
  return nullptr;
}

Task<Status> DirtyBitmaps::cover(ByteRange range) {
  while (DirtyBitmapPtr bitmap = first_uncovered(range)) {
    BitmapKeeper* keeper = bitmap->keeper();
    if (keeper == nullptr) continue;
    Status status = co_await keeper->cover(std::move(bitmap), range);
    if (!status.ok()) co_return status;
  }
  co_return Status();
}

DirtyBitmapPtr DirtyBitmaps::find(std::string_view name) const noexcept {
  if (name.empty()) return nullptr;
  auto found = std::find_if(all_.begin(), all_.end(),
                            [&](const DirtyBitmapPtr& bitmap) { return bitmap->name() == name; });
  return found != all_.end() ? *found : nullptr;
}

void DirtyBitmaps::add(DirtyBitmapPtr bitmap) {
  if (find(bitmap->name())) throw Error("Bitmap already exists: {}", bitmap->name());
  if (!in_use()) lock_.store(new ShortLock, std::memory_order_release);
  ShortLock::Writer writer(*lock_.load());
  all_.push_back(std::move(bitmap));
}

void DirtyBitmaps::remove(const DirtyBitmap& bitmap) noexcept {
  if (!in_use()) return;
  ShortLock::Writer writer(*lock_.load());
  std::erase_if(all_, [&](const DirtyBitmapPtr& other) { return other.get() == &bitmap; });
}

void DirtyBitmaps::remove_persistent() noexcept {
  if (!in_use()) return;
  ShortLock::Writer writer(*lock_.load());
  std::erase_if(all_, [](const DirtyBitmapPtr& bitmap) { return bitmap->is_persistent(); });
}

bool DirtyBitmaps::has_named() const noexcept {
  return std::any_of(all_.begin(), all_.end(),
                     [](const DirtyBitmapPtr& bitmap) { return !bitmap->name().empty(); });
}

void DirtyBitmaps::resize(uint64_t size) noexcept {
  if (!in_use()) return;
  ShortLock::Writer writer(*lock_.load());
  for (const DirtyBitmapPtr& bitmap : all_) {
    if (bitmap->size() != size) bitmap->resize(size);
  }
}

}  // namespace strata
