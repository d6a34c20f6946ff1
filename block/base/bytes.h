// SPDX-License-Identifier: GPL-2.0-or-later
//
// Big-endian numbers in memory, and what a decoder returns.
#pragma once

#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <variant>

namespace strata {

using ConstBytes = std::span<const std::byte>;
using Bytes = std::span<std::byte>;

// The caller has checked that the bytes are there.
template <class T>
T load_be(const std::byte* at) noexcept {
  T value;
  std::memcpy(&value, at, sizeof value);
  if constexpr (sizeof(T) == 8)
    return static_cast<T>(__builtin_bswap64(value));
  else if constexpr (sizeof(T) == 4)
    return static_cast<T>(__builtin_bswap32(value));
  else if constexpr (sizeof(T) == 2)
    return static_cast<T>(__builtin_bswap16(value));
  else
    return value;
}
template <class T>
T load_be(ConstBytes bytes, size_t offset) noexcept {
  assert(offset + sizeof(T) <= bytes.size());
  return load_be<T>(bytes.data() + offset);
}
template <class T>
void store_be(std::byte* at, T value) noexcept {
  T swapped = load_be<T>(reinterpret_cast<const std::byte*>(&value));
  std::memcpy(at, &swapped, sizeof swapped);
}
template <class T>
void store_be(Bytes bytes, size_t offset, T value) noexcept {
  assert(offset + sizeof(T) <= bytes.size());
  store_be(bytes.data() + offset, value);
}

inline std::string to_text(ConstBytes bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

// Why bytes are refused: a positive errno and a sentence for people.
struct FormatError {
  int error = 0;
  std::string text;
};

// A value, or why there is none.
template <class T>
class [[nodiscard]] Decoded {
 public:
  Decoded(T value) : value_(std::move(value)) {}
  Decoded(FormatError error) : value_(std::move(error)) {}

  bool ok() const noexcept { return value_.index() == 0; }
  explicit operator bool() const noexcept { return ok(); }
  T& operator*() { return std::get<0>(value_); }
  const T& operator*() const { return std::get<0>(value_); }
  T* operator->() { return &std::get<0>(value_); }
  const T* operator->() const { return &std::get<0>(value_); }
  const FormatError& error() const { return std::get<1>(value_); }

 private:
  std::variant<T, FormatError> value_;
};

}  // namespace strata
