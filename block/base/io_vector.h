// SPDX-License-Identifier: GPL-2.0-or-later
//
// The memory of a request: one buffer or an array of them, with a part cut off at either end.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace strata {

// A view: it owns neither the memory nor the iovec array, both of which must outlive it. Copying
// and slicing are cheap and never allocate.
class IoVector {
 public:
  IoVector() noexcept = default;
  explicit IoVector(std::span<const iovec> parts) noexcept;
  static IoVector buffer(void* data, size_t size) noexcept;
  // For writes: the memory is not modified by them.
  static IoVector buffer(const void* data, size_t size) noexcept {
    return buffer(const_cast<void*>(data), size);
  }

  size_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }

  // The bytes [offset, offset + size) of this view; they must lie inside it.
  IoVector slice(size_t offset, size_t size) const noexcept;

  // Calls `visit(std::byte* data, size_t size)` for each piece of contiguous memory, in order.
  template <class Visit>
  void for_each(Visit&& visit) const {
    if (parts_ == nullptr) {
      if (size_ != 0) visit(static_cast<std::byte*>(data_), size_);
      return;
    }
    size_t left = size_;
    size_t skip = skip_;
    for (const iovec* part = parts_; left != 0; ++part, skip = 0) {
      size_t size = std::min(part->iov_len - skip, left);
      if (size != 0) visit(static_cast<std::byte*>(part->iov_base) + skip, size);
      left -= size;
    }
  }

  // Number of contiguous pieces.
  size_t parts() const noexcept;
  // Fills `out` with at most out.size() pieces; returns how many were written. What does not fit is
  // left out: compare the sum of lengths with size().
  size_t export_to(std::span<iovec> out) const noexcept;
  // If the whole view is an array that the kernel can take as it is, that array; else an empty
  // span.
  std::span<const iovec> as_array() const noexcept;
  // The memory, if it is one piece; else nullptr.
  std::byte* contiguous() const noexcept;

  void copy_to(void* out) const noexcept;     // size() bytes
  void copy_from(const void* data) noexcept;  // size() bytes
  void fill(std::byte value) noexcept;
  bool is_zero() const noexcept;
  // Whether each piece starts at a multiple of `memory` and is a multiple of `length` bytes long.
  bool is_aligned(size_t memory, size_t length) const noexcept;

 private:
  const iovec* parts_ = nullptr;  // null: the one buffer data_
  uint32_t count_ = 0;
  size_t skip_ = 0;  // bytes of parts_[0] before the view
  size_t size_ = 0;
  void* data_ = nullptr;
};

// Whether `size` bytes at `data` are all zero.
bool is_zero_memory(const void* data, size_t size) noexcept;

}  // namespace strata
