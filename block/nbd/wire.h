// SPDX-License-Identifier: GPL-2.0-or-later
//
// Big-endian integers in byte buffers. Every multi-byte field of the protocol is in network byte
// order.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace strata::nbd {

using ConstBytes = std::span<const std::byte>;

template <std::unsigned_integral T>
inline T to_network(T value) noexcept {
  if constexpr (sizeof(T) == 1 || std::endian::native == std::endian::big) return value;
  if constexpr (sizeof(T) == 2) return __builtin_bswap16(value);
  if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
  if constexpr (sizeof(T) == 8) return __builtin_bswap64(value);
}

// `from` holds at least sizeof(T) bytes.
template <std::unsigned_integral T>
inline T load(const std::byte* from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof value);
  return to_network(value);
}

// `to` has room for sizeof(T) bytes.
template <std::unsigned_integral T>
inline void store(std::byte* to, T value) noexcept {
  value = to_network(value);
  std::memcpy(to, &value, sizeof value);
}

inline std::string_view as_text(ConstBytes bytes) noexcept {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline ConstBytes as_bytes(std::string_view text) noexcept {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

// Takes fields from the front of a payload. A field that overruns the payload yields zero (or
// nothing) and makes the reader fail for good, so that one check after a group of fields is enough.
class Reader {
 public:
  explicit Reader(ConstBytes bytes) noexcept : left_(bytes) {}

  template <std::unsigned_integral T>
  T take() noexcept {
    ConstBytes field = take_bytes(sizeof(T));
    return field.empty() ? T{0} : load<T>(field.data());
  }

  ConstBytes take_bytes(std::size_t count) noexcept {
    if (count > left_.size()) {
      overrun_ = true;
      left_ = {};
      return {};
    }
    ConstBytes field = left_.first(count);
    left_ = left_.subspan(count);
    return field;
  }

  std::string_view take_text(std::size_t count) noexcept { return as_text(take_bytes(count)); }

  bool overrun() const noexcept { return overrun_; }
  ConstBytes left() const noexcept { return left_; }

 private:
  ConstBytes left_;
  bool overrun_ = false;
};

// A message of the handshake under construction. The transmission phase does not use it: it
// allocates.
class Message {
 public:
  template <std::unsigned_integral T>
  Message& put(T value) {
    std::size_t at = bytes_.size();
    bytes_.resize(at + sizeof value);
    store(bytes_.data() + at, value);
    return *this;
  }

  Message& put(ConstBytes bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }

  Message& put(std::string_view text) { return put(as_bytes(text)); }
  Message& put_zeroes(std::size_t count) {
    bytes_.resize(bytes_.size() + count);
    return *this;
  }

  ConstBytes bytes() const noexcept { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace strata::nbd
