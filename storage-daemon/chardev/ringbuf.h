// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "storage-daemon/chardev/chardev.h"

namespace strata {

// The latest bytes of a stream, up to a size that is a power of two.
class RingBuffer {
 public:
  // Throws Error if `size` is no power of two.
  explicit RingBuffer(int64_t size);

  void write(std::string_view data);
  // Takes at most `count` bytes, the oldest first.
  std::string read(size_t count);
  size_t size() const noexcept { return static_cast<size_t>(produced_ - consumed_); }

 private:
  std::vector<char> bytes_;
  uint64_t produced_ = 0;
  uint64_t consumed_ = 0;
};

// Keeps what its front end writes for ringbuf-read.
class RingbufChardev final : public Chardev {
 public:
  static constexpr int64_t kDefaultSize = 65536;

  RingbufChardev(std::string id, int64_t size);
  std::string filename() const override { return "ringbuf"; }
  std::string_view qom_type() const noexcept override { return "chardev-ringbuf"; }
  RingBuffer& buffer() noexcept { return *buffer_; }

 private:
  std::shared_ptr<RingBuffer> buffer_;
};

}  // namespace strata
