// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the data path returns: a value or an errno. No allocation, no exception, never ignored.
#pragma once

#include <cassert>
#include <type_traits>
#include <utility>

namespace strata {

// Success, or a positive errno.
class [[nodiscard]] Status {
 public:
  constexpr Status() noexcept = default;
  // `error` is a positive errno, or 0 for success.
  static constexpr Status error(int error) noexcept {
    Status status;
    status.errno_ = error;
    return status;
  }
  // From a kernel-style result: negative is -errno, anything else is success.
  static constexpr Status from_result(long result) noexcept {
    return error(result < 0 ? static_cast<int>(-result) : 0);
  }

  constexpr bool ok() const noexcept { return errno_ == 0; }
  constexpr explicit operator bool() const noexcept { return ok(); }
  constexpr int error_number() const noexcept { return errno_; }
  friend constexpr bool operator==(Status, Status) noexcept = default;

 private:
  int errno_ = 0;
};

// A T, or a positive errno.
template <class T>
class [[nodiscard]] Result {
  static_assert(std::is_default_constructible_v<T>);

 public:
  constexpr Result(T value) noexcept(std::is_nothrow_move_constructible_v<T>)
      : value_(std::move(value)) {}
  // `status` must not be success: a value would be missing.
  constexpr Result(Status status) : errno_(status.error_number()) { assert(errno_ != 0); }
  static constexpr Result error(int error) { return Result(Status::error(error)); }

  constexpr bool ok() const noexcept { return errno_ == 0; }
  constexpr explicit operator bool() const noexcept { return ok(); }
  constexpr int error_number() const noexcept { return errno_; }
  constexpr Status status() const noexcept { return Status::error(errno_); }

  constexpr T& value() & { return assert(ok()), value_; }
  constexpr const T& value() const& { return assert(ok()), value_; }
  constexpr T&& value() && { return assert(ok()), std::move(value_); }
  constexpr T& operator*() & { return value(); }
  constexpr const T& operator*() const& { return value(); }
  constexpr T* operator->() { return &value(); }
  constexpr const T* operator->() const { return &value(); }

 private:
  T value_{};
  int errno_ = 0;
};

}  // namespace strata
