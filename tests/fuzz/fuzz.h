// SPDX-License-Identifier: GPL-2.0-or-later
//
// What every fuzz target needs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <source_location>

#include "block/base/bytes.h"

namespace strata::fuzz {

// A finding.
inline void require(bool condition, std::source_location where = std::source_location::current()) {
  if (condition) return;
  std::fprintf(stderr, "%s:%u: not as required\n", where.file_name(), where.line());
  std::abort();
}

// The fuzzer's bytes: choices are taken from the front, the rest is what is decoded.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(std::as_bytes(std::span(data, size))) {}

  // 0 behind the end.
  template <class T>
  T take() {
    T value{};
    size_t bytes = std::min(sizeof value, rest_.size());
    if (bytes != 0) std::memcpy(&value, rest_.data(), bytes);
    rest_ = rest_.subspan(bytes);
    return value;
  }
  ConstBytes rest() const noexcept { return rest_; }

 private:
  ConstBytes rest_;
};

}  // namespace strata::fuzz
