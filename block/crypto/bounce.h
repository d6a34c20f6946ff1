// SPDX-License-Identifier: GPL-2.0-or-later
//
// Memory for ciphertext on its way: kept by the thread, so that no request allocates it anew.
#pragma once

#include "block/base/aligned_buffer.h"

namespace strata::crypto {

// Taken and given back in one thread, which is that of a request. Empty where memory is short.
class Bounce {
 public:
  static constexpr size_t kMaxBytes = 1024 * 1024;

  explicit Bounce(size_t bytes) noexcept;  // at most kMaxBytes
  ~Bounce();
  Bounce(const Bounce&) = delete;
  Bounce& operator=(const Bounce&) = delete;

  explicit operator bool() const noexcept { return static_cast<bool>(buffer_); }
  std::byte* data() const noexcept { return buffer_.data(); }

 private:
  unsigned size_class_;
  AlignedBuffer buffer_;
};

}  // namespace strata::crypto
