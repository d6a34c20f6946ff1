// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/crypto/bounce.h"

#include <array>
#include <bit>

namespace strata::crypto {
namespace {

constexpr unsigned kSmallestBits = 12;
constexpr unsigned kClasses = 9;                // 4 KiB to 1 MiB
constexpr size_t kKeptBytes = 4 * 1024 * 1024;  // of each class
constexpr size_t kMostKept = 64;

class Shelf {
 public:
  AlignedBuffer take() noexcept {
    return count_ != 0 ? std::move(buffers_[--count_]) : AlignedBuffer();
  }
  void put(AlignedBuffer buffer) noexcept {
    if (count_ < kMostKept && count_ * buffer.size() < kKeptBytes)
      buffers_[count_++] = std::move(buffer);
  }

 private:
  std::array<AlignedBuffer, kMostKept> buffers_;
  size_t count_ = 0;
};

std::array<Shelf, kClasses>& shelves() noexcept {
  static thread_local std::array<Shelf, kClasses> all;
  return all;
}

unsigned class_of(size_t bytes) noexcept {
  auto bits = static_cast<unsigned>(std::bit_width(bytes - 1));
  return bits > kSmallestBits ? bits - kSmallestBits : 0;
}

}  // namespace

Bounce::Bounce(size_t bytes) noexcept
    : size_class_(class_of(bytes)), buffer_(shelves()[size_class_].take()) {
  if (!buffer_) buffer_ = AlignedBuffer(size_t{1} << (kSmallestBits + size_class_));
}

Bounce::~Bounce() {
  if (buffer_) shelves()[size_class_].put(std::move(buffer_));
}

}  // namespace strata::crypto
