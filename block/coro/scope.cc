// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/coro/scope.h"

#include <cassert>

namespace strata {

// The outermost frame of a spawned task; it frees itself at its end.
struct TaskScope::Root {
  struct promise_type {
    static void* operator new(size_t size) { return allocate_frame(size); }
    static void operator delete(void* frame, size_t size) noexcept { free_frame(frame, size); }
    Root get_return_object() const noexcept { return {}; }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    void unhandled_exception() const noexcept { std::terminate(); }
  };
};

TaskScope::~TaskScope() {
  assert(running_ == 0 && "a TaskScope is joined before it ends");
}

TaskScope::Root TaskScope::run(TaskScope& scope, Task<void> task) {
  {
    Task<void> body = std::move(task);
    try {
      co_await std::move(body);
    } catch (...) {
      if (!scope.first_exception_) scope.first_exception_ = std::current_exception();
    }
  }
  scope.ended();
}

void TaskScope::spawn(Task<void> task) {
  ++running_;
  run(*this, std::move(task));
}

void TaskScope::ended() noexcept {
  if (--running_ != 0 || !joining_) return;
  joining_ = false;
  joiner_.resume_later();
}

Task<void> TaskScope::join() {
  struct Awaiter {
    TaskScope& scope;
    bool await_ready() const noexcept { return scope.running_ == 0; }
    void await_suspend(std::coroutine_handle<> caller) const noexcept {
      assert(!scope.joining_ && "one joiner at a time");
      scope.joiner_.suspend(caller);
      scope.joining_ = true;
    }
    void await_resume() const noexcept {}
  };
  while (running_ != 0) co_await Awaiter{*this};
  if (first_exception_) std::rethrow_exception(std::exchange(first_exception_, nullptr));
}

}  // namespace strata
