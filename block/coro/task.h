// SPDX-License-Identifier: GPL-2.0-or-later
//
// Task<T>: the one way to say "this may wait".
//
//   Task<Status> copy(Edge& from, Edge& to, ByteRange range) {
//     Status read = co_await from.pread(...);
//     if (!read) co_return read;
//     co_return co_await to.pwrite(...);
//   }
//
// A task is lazy: its body starts when it is awaited. It is awaited once, in the executor in which
// its body then runs to the end (block/coro/README.md says why a task never changes threads). What
// it throws is thrown at the await. A function that has its answer already returns
// Task<T>::ready(value), and one that only passes a request on returns its callee's task: neither
// costs a frame.
#pragma once

#include <cassert>
#include <coroutine>
#include <exception>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

#include "block/coro/frame_pool.h"

namespace strata {

template <class T>
class Task;

namespace detail {

class TaskPromiseBase {
 public:
  static void* operator new(size_t size) { return allocate_frame(size); }
  static void operator delete(void* frame, size_t size) noexcept { free_frame(frame, size); }

  std::suspend_always initial_suspend() const noexcept { return {}; }

  // A body that ends before its first suspension returns to start(), whose caller then goes on
  // without having been suspended: no stack is used by any number of such awaits in a row, whatever
  // the compiler makes of tail calls.
  auto final_suspend() const noexcept {
    struct Awaiter {
      const TaskPromiseBase& promise;
      bool await_ready() const noexcept { return false; }
      std::coroutine_handle<> await_suspend(std::coroutine_handle<>) const noexcept {
        return promise.starting_ ? std::noop_coroutine() : promise.continuation_;
      }
      void await_resume() const noexcept {}
    };
    return Awaiter{*this};
  }

  // Runs `body` until it first suspends. True if the caller has to wait for it.
  bool start(std::coroutine_handle<> body, std::coroutine_handle<> caller) {
    assert(!continuation_ && "a task is awaited once");
    continuation_ = caller;
    starting_ = true;
    body.resume();
    if (body.done()) return false;
    starting_ = false;
    return true;
  }

 private:
  std::coroutine_handle<> continuation_;
  bool starting_ = false;
};

template <class T>
class TaskPromise final : public TaskPromiseBase {
 public:
  Task<T> get_return_object() noexcept;
  void unhandled_exception() noexcept { result_.template emplace<2>(std::current_exception()); }
  template <class U>
    requires std::is_constructible_v<T, U&&>
  void return_value(U&& value) {
    result_.template emplace<1>(std::forward<U>(value));
  }
  T take() {
    if (result_.index() == 2) std::rethrow_exception(std::get<2>(std::move(result_)));
    return std::get<1>(std::move(result_));
  }

 private:
  std::variant<std::monostate, T, std::exception_ptr> result_;
};

template <>
class TaskPromise<void> final : public TaskPromiseBase {
 public:
  Task<void> get_return_object() noexcept;
  void unhandled_exception() noexcept { exception_ = std::current_exception(); }
  void return_void() const noexcept {}
  void take() {
    if (exception_) std::rethrow_exception(std::exchange(exception_, nullptr));
  }

 private:
  std::exception_ptr exception_;
};

// What a task that never had a body holds instead of a frame.
template <class T>
struct ReadyValue {
  std::optional<T> value;
};
template <>
struct ReadyValue<void> {};

}  // namespace detail

template <class T = void>
class [[nodiscard]] Task {
 public:
  using promise_type = detail::TaskPromise<T>;
  using Handle = std::coroutine_handle<promise_type>;
  using Value = T;

  Task(Task&& other) noexcept
      : handle_(std::exchange(other.handle_, nullptr)), ready_(std::move(other.ready_)) {}
  Task& operator=(Task&& other) noexcept {
    std::swap(handle_, other.handle_);
    std::swap(ready_, other.ready_);
    return *this;
  }
  ~Task() {
    if (handle_) handle_.destroy();
  }

  // A task whose answer is there already.
  template <class U = T>
    requires(!std::is_void_v<U>)
  static Task ready(U value) {
    Task task;
    task.ready_.value.emplace(std::move(value));
    return task;
  }
  static Task ready()
    requires std::is_void_v<T>
  {
    return Task();
  }

  // Whether the answer was there from the start; if so, take_ready() yields it without an await.
  bool is_ready() const noexcept { return !handle_; }
  T take_ready() {
    assert(is_ready());
    if constexpr (!std::is_void_v<T>) return std::move(*ready_.value);
  }

  auto operator co_await() && noexcept {
    struct Awaiter {
      Task& task;
      bool await_ready() const noexcept { return !task.handle_; }
      bool await_suspend(std::coroutine_handle<> caller) const {
        return task.handle_.promise().start(task.handle_, caller);
      }
      T await_resume() const {
        if (task.handle_) return task.handle_.promise().take();
        if constexpr (!std::is_void_v<T>) return std::move(*task.ready_.value);
      }
    };
    return Awaiter{*this};
  }

 private:
  friend promise_type;
  Task() noexcept = default;
  explicit Task(Handle handle) noexcept : handle_(handle) {}

  Handle handle_;
  [[no_unique_address]] detail::ReadyValue<T> ready_;
};

template <class T>
Task<T> detail::TaskPromise<T>::get_return_object() noexcept {
  return Task<T>(Task<T>::Handle::from_promise(*this));
}
inline Task<void> detail::TaskPromise<void>::get_return_object() noexcept {
  return Task<void>(Task<void>::Handle::from_promise(*this));
}

}  // namespace strata
