// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/bitmap/bit_tree.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cassert>

namespace strata {
namespace {

// The bits of word `word` that lie in [first, end).
uint64_t mask_of(uint64_t word, uint64_t first, uint64_t end) noexcept {
  uint64_t mask = ~uint64_t{0};
  if (first > word * 64) mask &= ~uint64_t{0} << (first - word * 64);
  if (end < word * 64 + 64) mask &= ~(~uint64_t{0} << (end - word * 64));
  return mask;
}

uint64_t words_for(uint64_t bits) noexcept {
  return (bits + 63) / 64;
}

}  // namespace

BitTree::BitTree(uint64_t bits) noexcept {
  if (bits > kMaxBits) return;
  uint64_t total = 0;
  std::array<uint64_t, kMaxLevels> start{};
  uint64_t words = std::max<uint64_t>(1, words_for(bits));
  size_t levels = 0;
  for (;; words = words_for(words)) {
    count_[levels] = words;
    start[levels++] = total;
    total += words;
    if (words == 1) break;
  }
  memory_.reset(static_cast<uint64_t*>(std::calloc(total, sizeof(uint64_t))));
  if (memory_ == nullptr) return;
  bits_ = bits;
  levels_ = levels;
  for (size_t i = 0; i < levels; ++i) level_[i] = memory_.get() + start[i];
}

uint64_t BitTree::load(size_t level, uint64_t word) const noexcept {
  return std::atomic_ref<uint64_t>(*at(level, word)).load(std::memory_order_seq_cst);
}

// Sees to it that the levels above tell of a word that is not empty. Looks even where somebody
// else filled the word: he may not have come this far yet, and what was set must be found.
void BitTree::raise(size_t level, uint64_t word) noexcept {
  while (++level < levels_) {
    uint64_t bit = uint64_t{1} << word % 64;
    word /= 64;
    if ((load(level, word) & bit) == 0)
      std::atomic_ref<uint64_t>(*at(level, word)).fetch_or(bit, std::memory_order_seq_cst);
  }
}

// The word became empty: so the levels above are told, and told otherwise if it was filled again
// meanwhile.
void BitTree::lower(size_t level, uint64_t word) noexcept {
  while (level + 1 < levels_) {
    uint64_t bit = uint64_t{1} << word % 64;
    uint64_t above = std::atomic_ref<uint64_t>(*at(level + 1, word / 64)).fetch_and(~bit) & ~bit;
    if (load(level, word) != 0) return raise(level, word);
    if (above != 0) return;
    ++level;
    word /= 64;
  }
}

void BitTree::or_word(size_t level, uint64_t word, uint64_t mask) noexcept {
  if ((load(level, word) & mask) != mask)
    std::atomic_ref<uint64_t>(*at(level, word)).fetch_or(mask, std::memory_order_seq_cst);
}

void BitTree::and_word(size_t level, uint64_t word, uint64_t mask) noexcept {
  uint64_t old =
      std::atomic_ref<uint64_t>(*at(level, word)).fetch_and(mask, std::memory_order_seq_cst);
  if (old != 0 && (old & mask) == 0) lower(level, word);
}

void BitTree::set(uint64_t first, uint64_t count) noexcept {
  assert(first <= bits_ && count <= bits_ - first);
  if (count == 0) return;
  if (first / 64 == (first + count - 1) / 64) [[likely]] {
    or_word(0, first / 64, mask_of(first / 64, first, first + count));
    return raise(0, first / 64);
  }
  uint64_t end = first + count;
  for (size_t level = 0; level < levels_; ++level) {
    uint64_t last = (end - 1) / 64;
    for (uint64_t word = first / 64; word <= last; ++word)
      or_word(level, word, mask_of(word, first, end));
    first /= 64;
    end = last + 1;
  }
}

void BitTree::clear(uint64_t first, uint64_t count) noexcept {
  assert(first <= bits_ && count <= bits_ - first);
  uint64_t end = first + count;
  for (uint64_t at = next_set(first, end); at < end;) {
    uint64_t word = at / 64;
    and_word(0, word, ~mask_of(word, first, end));
    at = std::min(end, (word + 1) * 64);
    at = next_set(at, end);
  }
}

void BitTree::set_word(uint64_t index, uint64_t bits) noexcept {
  bits &= mask_of(index, 0, bits_);
  std::atomic_ref<uint64_t>(*at(0, index)).store(bits, std::memory_order_seq_cst);
  if (bits != 0)
    raise(0, index);
  else
    lower(0, index);
}

uint64_t BitTree::next_set(uint64_t from, uint64_t end) const noexcept {
  assert(end <= bits_);
  if (from >= end) return end;
  // Up until a word tells of something to the right, then down again to the first of it.
  uint64_t at = from;
  for (size_t level = 0; level < levels_ && at / 64 < count_[level];) {
    uint64_t rest = load(level, at / 64) & (~uint64_t{0} << at % 64);
    if (rest == 0) {
      at = at / 64 + 1;
      ++level;
      continue;
    }
    at = at / 64 * 64 + static_cast<uint64_t>(std::countr_zero(rest));
    if (level == 0) return std::min(at, end);
    at *= 64;
    --level;
  }
  return end;
}

uint64_t BitTree::next_clear(uint64_t from, uint64_t end) const noexcept {
  assert(end <= bits_);
  while (from < end) {
    uint64_t rest = ~load(0, from / 64) & (~uint64_t{0} << from % 64);
    if (rest != 0)
      return std::min(end, from / 64 * 64 + static_cast<uint64_t>(std::countr_zero(rest)));
    from = (from / 64 + 1) * 64;
  }
  return end;
}

uint64_t BitTree::count(uint64_t first, uint64_t count) const noexcept {
  uint64_t end = first + count;
  uint64_t sum = 0;
  for (uint64_t at = next_set(first, end); at < end;) {
    uint64_t word = at / 64;
    sum += static_cast<uint64_t>(std::popcount(load(0, word) & mask_of(word, first, end)));
    at = next_set(std::min(end, (word + 1) * 64), end);
  }
  return sum;
}

void BitTree::merge(const BitTree& other) noexcept {
  assert(other.bits_ == bits_);
  for (uint64_t at = other.next_set(0, bits_); at < bits_;) {
    uint64_t word = at / 64;
    or_word(0, word, other.word(word));
    raise(0, word);
    at = other.next_set(std::min(bits_, (word + 1) * 64), bits_);
  }
}

BitTree BitTree::resized(uint64_t bits) const noexcept {
  BitTree copy(bits);
  if (!copy.ok()) return copy;
  uint64_t end = std::min(bits, bits_);
  for (uint64_t at = next_set(0, end); at < end;) {
    uint64_t index = at / 64;
    copy.set_word(index, word(index));
    at = next_set(std::min(end, (index + 1) * 64), end);
  }
  return copy;
}

}  // namespace strata
