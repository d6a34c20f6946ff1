// SPDX-License-Identifier: GPL-2.0-or-later
//
// Checked and aligned arithmetic on byte counts.
#pragma once

#include <cstdint>
#include <optional>

namespace strata {

constexpr bool is_power_of_two(uint64_t value) noexcept {
  return value != 0 && (value & (value - 1)) == 0;
}

// `alignment` is a power of two.
constexpr uint64_t align_down(uint64_t value, uint64_t alignment) noexcept {
  return value & ~(alignment - 1);
}
// Wraps to 0 past the end of the number range: check `value` against a limit first.
constexpr uint64_t align_up(uint64_t value, uint64_t alignment) noexcept {
  return (value + alignment - 1) & ~(alignment - 1);
}
constexpr bool is_aligned(uint64_t value, uint64_t alignment) noexcept {
  return (value & (alignment - 1)) == 0;
}

constexpr std::optional<uint64_t> checked_add(uint64_t a, uint64_t b) noexcept {
  uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}
constexpr std::optional<uint64_t> checked_mul(uint64_t a, uint64_t b) noexcept {
  uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

// The half-open range [offset, offset + bytes). Its end never wraps: make one from unchecked
// numbers with `checked`.
struct ByteRange {
  uint64_t offset = 0;
  uint64_t bytes = 0;

  static constexpr std::optional<ByteRange> checked(uint64_t offset, uint64_t bytes) noexcept {
    if (!checked_add(offset, bytes)) return std::nullopt;
    return ByteRange{offset, bytes};
  }

  constexpr uint64_t end() const noexcept { return offset + bytes; }
  constexpr bool empty() const noexcept { return bytes == 0; }
  constexpr bool overlaps(ByteRange other) const noexcept {
    return offset < other.end() && other.offset < end();
  }
  constexpr bool contains(ByteRange other) const noexcept {
    return other.offset >= offset && other.end() <= end();
  }
  // The smallest range of whole `alignment` units around this one.
  constexpr ByteRange aligned_out(uint64_t alignment) const noexcept {
    uint64_t first = align_down(offset, alignment);
    return {first, align_up(end(), alignment) - first};
  }
  friend constexpr bool operator==(ByteRange, ByteRange) noexcept = default;
};

}  // namespace strata
