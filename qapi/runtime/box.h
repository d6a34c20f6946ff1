// SPDX-License-Identifier: GPL-2.0-or-later
//
// A value on the heap. Types that contain themselves (a node's options hold references that hold
// options) are untied with it and remain plain values: a copy is deep, == compares the contents.
#pragma once

#include <memory>
#include <utility>

namespace strata::qapi {

template <class T>
class Box {
 public:
  Box() : value_(std::make_unique<T>()) {}
  Box(T value) : value_(std::make_unique<T>(std::move(value))) {}
  Box(const Box& other) : value_(std::make_unique<T>(*other.value_)) {}
  // A box that was moved from may only be assigned to or destroyed.
  Box(Box&&) noexcept = default;
  Box& operator=(const Box& other) {
    Box copy(other);
    value_.swap(copy.value_);
    return *this;
  }
  Box& operator=(Box&&) noexcept = default;
  ~Box() = default;

  T& operator*() noexcept { return *value_; }
  const T& operator*() const noexcept { return *value_; }
  T* operator->() noexcept { return value_.get(); }
  const T* operator->() const noexcept { return value_.get(); }

  friend bool operator==(const Box& one, const Box& other) { return *one == *other; }

 private:
  std::unique_ptr<T> value_;
};

}  // namespace strata::qapi
