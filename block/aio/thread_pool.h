// SPDX-License-Identifier: GPL-2.0-or-later
//
// Threads for what the kernel only does blocking.
//
//   auto& pool = AioContext::current()->service<ThreadPool>();
//   int result = co_await pool.run([fd] { return ::fdatasync(fd) == 0 ? 0 : -errno; });
#pragma once

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <list>
#include <mutex>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>
#include <variant>

#include "block/aio/aio_context.h"
#include "block/coro/executor.h"

namespace strata {

// One pool a context (a service of it). Threads are made when work finds none idle, up to the
// context's thread_pool_limits(), which may change at any time; where those allow none, the context
// does the work itself. Threads above the minimum end when they have been idle for a while. Work
// waits in the order of its coming; how much of it may wait is the callers' to bound. Destroyed
// when nothing is waiting or being done.
class ThreadPool {
 public:
  // Something to do in one of the threads. It lives with whoever waits for it and, once it has made
  // its end known, is not touched any more.
  class Work {
   public:
    virtual void work() noexcept = 0;

   protected:
    Work() noexcept = default;
    ~Work() = default;

   private:
    friend class ThreadPool;
    Work* next_ = nullptr;
  };

  explicit ThreadPool(AioContext& context);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // co_await calls `callable()` in another thread and yields what it returns or throws. The
  // callable is kept in the awaiting frame. Where no thread can be had it is called here.
  template <class Callable>
  auto run(Callable callable) {
    return Call<Callable>(*this, std::move(callable));
  }

  void submit(Work& work) noexcept;

  size_t threads() const;
  // How long a thread above the minimum stays without work.
  void set_idle_time(Duration idle_time);

 private:
  template <class Callable>
  class [[nodiscard]] Call final : Resumption, Work {
    using Value = std::invoke_result_t<Callable&>;
    using Stored = std::conditional_t<std::is_void_v<Value>, std::monostate, Value>;

   public:
    Call(ThreadPool& pool, Callable callable) : pool_(pool), callable_(std::move(callable)) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> caller) noexcept {
      suspend(caller);
      pool_.submit(*this);
    }
    Value await_resume() {
      if (error_) std::rethrow_exception(error_);
      if constexpr (!std::is_void_v<Value>) return std::move(*value_);
    }

   private:
    void work() noexcept override {
      try {
        if constexpr (std::is_void_v<Value>)
          callable_();
        else
          value_.emplace(callable_());
      } catch (...) {
        error_ = std::current_exception();
      }
      resume_later();
    }

    ThreadPool& pool_;
    Callable callable_;
    std::optional<Stored> value_;
    std::exception_ptr error_;
  };

  using Threads = std::list<std::thread>;

  bool enqueue(Work& work, Threads& ended) noexcept;
  bool start_thread() noexcept;  // under mutex_
  void run_thread(Threads::iterator self);
  Work* next_work(std::unique_lock<std::mutex>& lock);  // null: this thread is to end
  static void join(Threads& threads) noexcept;

  AioContext& context_;
  mutable std::mutex mutex_;
  std::condition_variable work_added_;
  Work* first_ = nullptr;
  Work** last_ = &first_;
  size_t queued_ = 0;
  size_t busy_ = 0;  // threads that are working
  size_t idle_ = 0;  // threads that are waiting for work
  bool ending_ = false;
  Duration idle_time_ = std::chrono::seconds(10);
  Threads threads_;
  Threads ended_;  // to be joined
};

}  // namespace strata
