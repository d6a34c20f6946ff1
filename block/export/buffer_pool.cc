// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/buffer_pool.h"

#include <bit>
#include <cassert>
#include <cstdlib>

namespace strata {
namespace {

constexpr size_t kAlignment = 4096;

size_t class_of(size_t rounded) noexcept {
  return static_cast<size_t>(std::countr_zero(rounded) - std::countr_zero(BufferPool::kSmallest));
}

}  // namespace

BufferPool::~BufferPool() {
  for (Free* first : free_) {
    while (first != nullptr) std::free(std::exchange(first, first->next));
  }
}

BufferPool::Buffer BufferPool::get(size_t size) noexcept {
  assert(size <= kLargest);
  size_t rounded = size <= kSmallest ? kSmallest : std::bit_ceil(size);
  Free*& first = free_[class_of(rounded)];
  if (first != nullptr) {
    kept_ -= rounded;
    return Buffer(*this, reinterpret_cast<std::byte*>(std::exchange(first, first->next)), rounded);
  }
  auto* fresh = static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded));
  return Buffer(*this, fresh, rounded);
}

void BufferPool::put(std::byte* data, size_t size) noexcept {
  if (kept_ + size > kMostKept) {
    std::free(data);
    return;
  }
  Free*& first = free_[class_of(size)];
  first = new (data) Free{first};
  kept_ += size;
}

}  // namespace strata
