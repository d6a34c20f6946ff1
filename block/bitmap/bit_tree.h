// SPDX-License-Identifier: GPL-2.0-or-later
//
// A hierarchical bitmap: above the bits lie levels of one bit a word, so that what is set is found
// without a look at what is not.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace strata {

// Memory is taken once, when the tree is made; pages in which nothing was ever set cost none.
//
// Any number of threads may set, clear and look at once. What was set before a search began and is
// not cleared during it is found by it, unless another thread clears bits next to it meanwhile.
class BitTree {
 public:
  // The largest number of bits there can be.
  static constexpr uint64_t kMaxBits = uint64_t{1} << 38;

  BitTree() noexcept = default;
  // Empty (ok() is false) where there is no memory for so many.
  explicit BitTree(uint64_t bits) noexcept;
  BitTree(BitTree&&) noexcept = default;
  BitTree& operator=(BitTree&&) noexcept = default;

  bool ok() const noexcept { return memory_ != nullptr; }
  uint64_t size() const noexcept { return bits_; }

  // [first, first + count) lies inside.
  void set(uint64_t first, uint64_t count) noexcept;
  void clear(uint64_t first, uint64_t count) noexcept;
  bool test(uint64_t bit) const noexcept { return (load(0, bit / 64) >> bit % 64 & 1) != 0; }
  bool all_set(uint64_t first, uint64_t count) const noexcept {
    return next_clear(first, first + count) == first + count;
  }
  // The first bit of [from, end) that is set, or is not; `end` if there is none. `end` <= size().
  uint64_t next_set(uint64_t from, uint64_t end) const noexcept;
  uint64_t next_clear(uint64_t from, uint64_t end) const noexcept;
  // How many are set.
  uint64_t count(uint64_t first, uint64_t count) const noexcept;
  uint64_t count() const noexcept { return count(0, bits_); }

  // The bits of word `index`, least significant first; those behind the end are 0.
  uint64_t word(uint64_t index) const noexcept { return load(0, index); }
  uint64_t words() const noexcept { return (bits_ + 63) / 64; }
  void set_word(uint64_t index, uint64_t bits) noexcept;

  // Sets what is set in `other`, of the same size.
  void merge(const BitTree& other) noexcept;
  // A copy with another size; not ok() where there is no memory.
  BitTree resized(uint64_t bits) const noexcept;

 private:
  static constexpr size_t kMaxLevels = 7;
  struct Free {
    void operator()(uint64_t* memory) const noexcept { std::free(memory); }
  };

  uint64_t* at(size_t level, uint64_t word) const noexcept { return level_[level] + word; }
  uint64_t load(size_t level, uint64_t word) const noexcept;
  void or_word(size_t level, uint64_t word, uint64_t mask) noexcept;
  void and_word(size_t level, uint64_t word, uint64_t mask) noexcept;
  void raise(size_t level, uint64_t word) noexcept;
  void lower(size_t level, uint64_t word) noexcept;

  uint64_t bits_ = 0;
  size_t levels_ = 0;
  std::unique_ptr<uint64_t[], Free> memory_;
  std::array<uint64_t*, kMaxLevels> level_{};  // level 0: the bits
  std::array<uint64_t, kMaxLevels> count_{};   // words of each
};

}  // namespace strata
