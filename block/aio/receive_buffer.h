// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstring>
#include <span>

#include "block/base/io_vector.h"

namespace strata {

// What has been received and not yet used. Messages are decoded where they lie; one receive may
// bring many.
class ReceiveBuffer {
 public:
  // `memory` is the caller's and lives as long as the buffer.
  explicit ReceiveBuffer(std::span<std::byte> memory) noexcept : memory_(memory) {}

  std::span<const std::byte> unread() const noexcept {
    return {memory_.data() + begin_, end_ - begin_};
  }
  void consume(size_t bytes) noexcept {
    assert(bytes <= end_ - begin_);
    begin_ += bytes;
    if (begin_ == end_) begin_ = end_ = 0;
  }
  // Takes up to out.size() bytes; returns how many.
  size_t take(std::span<std::byte> out) noexcept {
    size_t bytes = std::min(out.size(), end_ - begin_);
    if (bytes != 0) std::memcpy(out.data(), memory_.data() + begin_, bytes);
    consume(bytes);
    return bytes;
  }

  // Room for the next receive. What is unread moves to the front: the caller has used all but a
  // fraction of a message.
  IoVector room() noexcept {
    if (begin_ != 0) {
      std::memmove(memory_.data(), memory_.data() + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
    }
    return IoVector::buffer(memory_.data() + end_, memory_.size() - end_);
  }
  void received(size_t bytes) noexcept { end_ += bytes; }

 private:
  std::span<std::byte> memory_;
  size_t begin_ = 0;
  size_t end_ = 0;
};

}  // namespace strata
