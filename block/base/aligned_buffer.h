// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstddef>
#include <cstdlib>
#include <utility>

namespace strata {

// Memory for disk I/O, aligned so that O_DIRECT takes it on any device. Contents start undefined.
class AlignedBuffer {
 public:
  static constexpr size_t kAlignment = 4096;

  AlignedBuffer() noexcept = default;
  // Where memory is short the buffer stays empty: check with operator bool. Sizes come from images
  // and clients, so callers bound them first.
  explicit AlignedBuffer(size_t size, size_t alignment = kAlignment) noexcept
      : data_(static_cast<std::byte*>(
            std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment))),
        size_(data_ != nullptr ? size : 0) {}
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~AlignedBuffer() { std::free(data_); }

  explicit operator bool() const noexcept { return data_ != nullptr; }
  std::byte* data() const noexcept { return data_; }
  size_t size() const noexcept { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace strata
