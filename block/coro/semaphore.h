// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cassert>
#include <cstddef>
#include <mutex>
#include <utility>

#include "block/coro/executor.h"

namespace strata {

// A number of units, taken and given back by coroutines of any executor. Waiters are served in the
// order of their coming, so a large request is not starved by small ones.
class Semaphore {
 public:
  explicit Semaphore(size_t units) noexcept : units_(units) {}
  Semaphore(const Semaphore&) = delete;
  Semaphore& operator=(const Semaphore&) = delete;

  // Gives its units back when destroyed.
  class [[nodiscard]] Units {
   public:
    Units() noexcept = default;
    Units(Units&& other) noexcept
        : semaphore_(std::exchange(other.semaphore_, nullptr)), count_(other.count_) {}
    Units& operator=(Units&& other) noexcept {
      std::swap(semaphore_, other.semaphore_);
      std::swap(count_, other.count_);
      return *this;
    }
    ~Units() { release(); }
    void release() noexcept {
      if (Semaphore* semaphore = std::exchange(semaphore_, nullptr)) semaphore->release(count_);
    }

   private:
    friend class Semaphore;
    Units(Semaphore* semaphore, size_t count) noexcept : semaphore_(semaphore), count_(count) {}
    Semaphore* semaphore_ = nullptr;
    size_t count_ = 0;
  };

  // co_await yields the Units. `count` is at most what the semaphore started with.
  auto acquire(size_t count = 1) noexcept { return Awaiter(*this, count); }

  bool try_acquire(Units& units, size_t count = 1) noexcept {
    std::lock_guard lock(mutex_);
    if (!waiters_.empty() || units_ < count) return false;
    units_ -= count;
    units = Units(this, count);
    return true;
  }

  size_t available() const noexcept {
    std::lock_guard lock(mutex_);
    return units_;
  }

 private:
  struct Awaiter : Resumption {
    Awaiter(Semaphore& s, size_t n) noexcept : semaphore(s), count(n) {}
    Semaphore& semaphore;
    size_t count;
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> caller) noexcept {
      suspend(caller);
      std::lock_guard lock(semaphore.mutex_);
      if (semaphore.waiters_.empty() && semaphore.units_ >= count) {
        semaphore.units_ -= count;
        return false;
      }
      if (semaphore.waiters_.empty()) semaphore.first_ = this;
      semaphore.waiters_.push(*this);
      return true;
    }
    Units await_resume() noexcept { return Units(&semaphore, count); }
  };

  void release(size_t count) noexcept {
    ResumptionList go;
    {
      std::lock_guard lock(mutex_);
      units_ += count;
      while (!waiters_.empty() && units_ >= first_->count) {
        units_ -= first_->count;
        Resumption& served = waiters_.pop();
        first_ = static_cast<Awaiter*>(served.next);
        go.push(served);
      }
    }
    go.resume_all_later();
  }

  mutable std::mutex mutex_;
  size_t units_;
  ResumptionList waiters_;
  Awaiter* first_ = nullptr;  // of waiters_
};

}  // namespace strata
