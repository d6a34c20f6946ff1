// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/bitmap/dirty_bitmap.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cerrno>

#include "block/base/error.h"

namespace strata {
DirtyBitmap::DirtyBitmap(std::string name, uint64_t size, uint64_t granularity)
    : name_(std::move(name)),
      size_(size),
      shift_(static_cast<unsigned>(std::countr_zero(granularity))) {
  assert(std::has_single_bit(granularity));
  trees_.push_back(std::make_unique<BitTree>(bits_for(size)));
  tree_ = trees_.back().get();
  if (!tree().ok()) throw Error::from_errno(ENOMEM, "Cannot create bitmap '{}'", name_);
}

std::shared_ptr<DirtyBitmap> DirtyBitmap::inconsistent(std::string name, uint64_t size,
                                                       uint64_t granularity) {
  auto bitmap = std::make_shared<DirtyBitmap>(std::move(name), 0, granularity);
  bitmap->size_ = size;
  bitmap->inconsistent_ = true;
  bitmap->enabled_ = false;
  bitmap->persistent_ = true;
  return bitmap;
}

DirtyBitmap::Bits DirtyBitmap::bits_of(ByteRange range) const noexcept {
  uint64_t first = range.offset >> shift_;
  uint64_t count = bit_count();
  if (range.bytes == 0 || first >= count) return {};
  uint64_t last = std::min(count - 1, (range.end() - 1) >> shift_);
  return {first, last - first + 1};
}

void DirtyBitmap::set(ByteRange range) noexcept {
  Bits bits = bits_of(range);
  if (bits.count == 0) return;
  tree().set(bits.first, bits.count);
  if (!changed_.load(std::memory_order_relaxed)) changed_.store(true);
}

void DirtyBitmap::reset(ByteRange range) noexcept {
  Bits bits = bits_of(range);
  if (bits.count == 0) return;
  tree().clear(bits.first, bits.count);
  changed_.store(true);
}

bool DirtyBitmap::is_dirty(uint64_t offset) const noexcept {
  Bits bit = bits_of({offset, 1});
  return bit.count != 0 && tree().test(bit.first);
}

std::optional<ByteRange> DirtyBitmap::next_dirty_area(uint64_t from, uint64_t end,
                                                      uint64_t most) const noexcept {
  const BitTree& bits = tree();
  end = std::min({end, size(), bits.size() << shift_});
  if (from >= end) return std::nullopt;
  uint64_t last = bits_for(end);
  uint64_t first = bits.next_set(from >> shift_, last);
  if (first == last) return std::nullopt;
  uint64_t start = std::max(from, first << shift_);
  uint64_t limit = end - start > most ? start + most : end;
  uint64_t stop = bits.next_clear(first, bits_for(limit));
  return ByteRange{start, std::min(limit, stop << shift_) - start};
}

DirtyBitmap::Extent DirtyBitmap::extent(ByteRange range) const noexcept {
  Bits bits = bits_of(range);
  if (bits.count == 0) return {range.bytes, false};
  uint64_t end = bits.first + bits.count;
  const BitTree& found = tree();
  bool dirty = found.test(bits.first);
  uint64_t stop = dirty ? found.next_clear(bits.first, end) : found.next_set(bits.first, end);
  if (stop == end) return {range.bytes, dirty};
  return {(stop << shift_) - range.offset, dirty};
}

void DirtyBitmap::check(Use use) const {
  if (is_busy())
    throw Error("Bitmap '{}' is currently in use by another operation and cannot be used", name_);
  if (read_only_ && use != Use::read)
    throw Error("Bitmap '{}' is readonly and cannot be modified", name_);
  if (inconsistent_ && use != Use::remove)
    throw Error("Bitmap '{}' is inconsistent and cannot be used", name_)
        .hint("Try block-dirty-bitmap-remove to delete this bitmap from disk\n");
}

void DirtyBitmap::check_mergeable(const DirtyBitmap& from) const {
  if (size() != from.size())
    throw Error(
        "Bitmaps are of different sizes (destination size is {}, source size is {}) and can't be "
        "merged",
        size(), from.size());
}

void DirtyBitmap::merge(const DirtyBitmap& from) {
  check_mergeable(from);
  if (shift_ == from.shift_ && tree().size() == from.tree().size()) {
    tree().merge(from.tree());
    changed_ = true;
    return;
  }
  for (uint64_t at = 0; auto area = from.next_dirty_area(at, size()); at = area->end()) set(*area);
}

void DirtyBitmap::serialize(uint64_t offset, std::span<std::byte> out) const noexcept {
  assert(offset % 8 == 0);
  const BitTree& bits = tree();
  for (size_t i = 0; i < out.size(); i += 8) {
    uint64_t index = (offset + i) / 8;
    uint64_t word = index < bits.words() ? bits.word(index) : 0;
    for (size_t byte = 0; byte < 8 && i + byte < out.size(); ++byte)
      out[i + byte] = static_cast<std::byte>(word >> 8 * byte);
  }
}

bool DirtyBitmap::deserialize(uint64_t offset, std::span<const std::byte> bytes) noexcept {
  assert(offset % 8 == 0);
  BitTree& bits = tree();
  for (size_t i = 0; i < bytes.size(); i += 8) {
    uint64_t word = 0;
    for (size_t byte = 0; byte < 8 && i + byte < bytes.size(); ++byte)
      word |= static_cast<uint64_t>(bytes[i + byte]) << 8 * byte;
    if (word == 0) continue;
    uint64_t index = (offset + i) / 8;
    if (index >= bits.words()) return false;
    bits.set_word(index, word);
    if (bits.word(index) != word) return false;
  }
  return true;
}

void DirtyBitmap::deserialize_ones(uint64_t offset, uint64_t bytes) noexcept {
  uint64_t all = bit_count();
  uint64_t first = std::min(offset * 8, all);
  tree().set(first, std::min(bytes * 8, all - first));
}

bool DirtyBitmap::keep(BitmapKeeper& keeper) noexcept {
  auto covered = std::make_unique<BitTree>((tree().size() + kGroupBits - 1) / kGroupBits);
  if (!covered->ok()) return false;
  covered_ = covered.get();
  trees_.push_back(std::move(covered));
  keeper_.store(&keeper, std::memory_order_release);
  return true;
}

bool DirtyBitmap::needs_cover(ByteRange range) const noexcept {
  if (keeper_.load(std::memory_order_acquire) == nullptr || !is_enabled()) return false;
  Bits bits = bits_of(range);
  if (bits.count == 0) return false;
  uint64_t first = bits.first / kGroupBits;
  uint64_t last = (bits.first + bits.count - 1) / kGroupBits;
  return !covered().all_set(first, last - first + 1);
}

void DirtyBitmap::resize(uint64_t size) noexcept {
  uint64_t bits = bits_for(size);
  uint64_t old_bits = bit_count();
  if (!inconsistent_ && bits > tree().size()) {
    // Files grow a little at a time: room for more of that.
    auto larger = std::make_unique<BitTree>(
        tree().resized(std::clamp(2 * tree().size(), bits, std::max(bits, BitTree::kMaxBits))));
    if (larger->ok()) {
      tree_ = larger.get();
      trees_.push_back(std::move(larger));
    } else {
      inconsistent_ = true;
      enabled_ = false;
      keeper_ = nullptr;
    }
  } else if (!inconsistent_ && bits < old_bits) {
    tree().clear(bits, old_bits - bits);
  }
  size_ = size;
  changed_ = true;
}

}  // namespace strata
