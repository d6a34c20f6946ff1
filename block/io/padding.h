// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <vector>

#include "block/base/aligned_buffer.h"
#include "block/base/io_vector.h"
#include "block/base/math.h"

namespace strata::io {

// Widens a request to whole units: the memory of the parts before and after it, and the vector of
// all three. Head and tail lie in one block where the request is within one unit.
class Padding {
 public:
  // `alignment` is a power of two; the range is not empty.
  Padding(ByteRange range, IoVector memory, uint32_t alignment);

  bool ok() const noexcept { return !needs_buffer_ || static_cast<bool>(buffer_); }
  ByteRange aligned() const noexcept { return aligned_; }
  IoVector memory() const noexcept { return IoVector(std::span<const iovec>(parts_)); }

  // The first and last unit, to be filled before a write; empty where the request covers it.
  // One unit covers both where `merged()`.
  bool merged() const noexcept { return merged_; }
  IoVector head_unit() const noexcept {
    return IoVector::buffer(buffer_.data(), head_ != 0 || merged_ ? alignment_ : 0);
  }
  IoVector tail_unit() const noexcept {
    return IoVector::buffer(tail_buffer_, tail_ != 0 && !merged_ ? alignment_ : 0);
  }

 private:
  size_t alignment_;
  ByteRange aligned_;
  size_t head_;  // bytes before the request in its first unit
  size_t tail_;  // bytes after it in its last
  bool merged_;
  bool needs_buffer_;
  AlignedBuffer buffer_;
  std::byte* tail_buffer_ = nullptr;
  std::vector<iovec> parts_;
};

}  // namespace strata::io
