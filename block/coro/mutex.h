// SPDX-License-Identifier: GPL-2.0-or-later
//
// A mutex for coroutines of any executor; it may be held over a co_await.
//
//   Mutex::Lock lock = co_await mutex_.lock();
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

#include "block/coro/executor.h"

namespace strata {

// Ownership passes to the waiters in the order of their coming; each is resumed in its own
// executor. Without contention, locking and unlocking are one atomic operation each.
class Mutex {
 public:
  // Holds the mutex until destroyed or unlocked.
  class [[nodiscard]] Lock {
   public:
    Lock() noexcept = default;
    Lock(Lock&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
    Lock& operator=(Lock&& other) noexcept {
      std::swap(mutex_, other.mutex_);
      return *this;
    }
    ~Lock() { unlock(); }
    void unlock() noexcept {
      if (Mutex* mutex = std::exchange(mutex_, nullptr)) mutex->unlock();
    }
    explicit operator bool() const noexcept { return mutex_ != nullptr; }

   private:
    friend class Mutex;
    explicit Lock(Mutex* mutex) noexcept : mutex_(mutex) {}
    Mutex* mutex_ = nullptr;
  };

  Mutex() noexcept = default;
  ~Mutex();
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  // co_await yields a Lock.
  auto lock() noexcept {
    struct Awaiter : Resumption {
      explicit Awaiter(Mutex& m) noexcept : mutex(m) {}
      Mutex& mutex;
      bool await_ready() noexcept { return mutex.try_acquire(); }
      bool await_suspend(std::coroutine_handle<> caller) noexcept {
        suspend(caller);
        return mutex.enqueue(*this);
      }
      Lock await_resume() noexcept { return Lock(&mutex); }
    };
    return Awaiter(*this);
  }

  // An empty Lock if it is taken.
  Lock try_lock() noexcept { return Lock(try_acquire() ? this : nullptr); }

 private:
  // state_ is kFree, kHeld, or the latest waiter of a stack of new ones (held, too).
  static constexpr uintptr_t kFree = 1;
  static constexpr uintptr_t kHeld = 0;

  bool try_acquire() noexcept {
    uintptr_t expected = kFree;
    return state_.compare_exchange_strong(expected, kHeld, std::memory_order_acquire,
                                          std::memory_order_relaxed);
  }
  bool enqueue(Resumption& waiter) noexcept;  // false: got it after all
  void unlock() noexcept;

  std::atomic<uintptr_t> state_{kFree};
  Resumption* waiters_ = nullptr;  // the holder's: in the order of their coming
};

}  // namespace strata
