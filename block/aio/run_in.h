// SPDX-License-Identifier: GPL-2.0-or-later
//
// Work for another executor: the one way over the wall.
#pragma once

#include <exception>
#include <functional>
#include <optional>
#include <utility>
#include <variant>

#include "block/coro/executor.h"
#include "block/coro/task.h"

namespace strata {
namespace detail {

// The frame that carries a task to its executor and frees itself there.
struct RemoteRoot {
  struct promise_type {
    static void* operator new(size_t size) { return allocate_frame(size); }
    static void operator delete(void* frame, size_t size) noexcept { free_frame(frame, size); }
    RemoteRoot get_return_object() noexcept {
      return {std::coroutine_handle<promise_type>::from_promise(*this)};
    }
    std::suspend_always initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    void unhandled_exception() const noexcept { std::terminate(); }
    Resumption start;
  };
  std::coroutine_handle<promise_type> handle;
};

template <class T>
struct RemoteCall : Resumption {
  using Value = std::conditional_t<std::is_void_v<T>, std::monostate, T>;

  Executor& target;
  Task<T> task;
  std::optional<Value> value;
  std::exception_ptr error;

  RemoteCall(Executor& executor, Task<T> body) : target(executor), task(std::move(body)) {}

  static RemoteRoot carry(RemoteCall& call) {
    {
      Task<T> body = std::move(call.task);
      try {
        if constexpr (std::is_void_v<T>)
          co_await std::move(body);
        else
          call.value.emplace(co_await std::move(body));
      } catch (...) {
        call.error = std::current_exception();
      }
    }
    call.resume_later();  // `call` may be gone from here on
  }

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> caller) {
    suspend(caller);
    auto root = carry(*this).handle;
    Resumption& start = root.promise().start;
    start.handle = root;
    start.executor = &target;
    start.resume_later();
  }
  T await_resume() {
    if (error) std::rethrow_exception(error);
    if constexpr (!std::is_void_v<T>) return std::move(*value);
  }
};

}  // namespace detail

// Runs `task` in `executor`, and goes on here with its result. What `task` refers to must be usable
// there; the caller waits, so its own frame is.
template <class T>
Task<T> run_in(Executor& executor, Task<T> task) {
  if (executor.is_current()) co_return co_await std::move(task);
  co_return co_await detail::RemoteCall<T>(executor, std::move(task));
}

// Calls `function` in `executor` on a later turn, from any thread. For news from I/O to the control
// plane; whatever the function refers to must still be there then.
void post(Executor& executor, std::function<void()> function);

}  // namespace strata
