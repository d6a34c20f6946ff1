// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <atomic>
#include <mutex>

#include "block/coro/executor.h"

namespace strata {

// A condition that holds or does not; any thread may set it, coroutines of any executor may wait.
// Setting it lets every waiter go; it stays set until reset.
class Event {
 public:
  explicit Event(bool set = false) noexcept : set_(set) {}
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  bool is_set() const noexcept { return set_.load(std::memory_order_acquire); }
  void set() noexcept {
    ResumptionList go;
    {
      std::lock_guard lock(mutex_);
      set_.store(true, std::memory_order_release);
      go = waiters_.take();
    }
    go.resume_all_later();
  }
  void reset() noexcept { set_.store(false, std::memory_order_release); }

  auto wait() noexcept {
    struct Awaiter : Resumption {
      explicit Awaiter(Event& e) noexcept : event(e) {}
      Event& event;
      bool await_ready() const noexcept { return event.is_set(); }
      bool await_suspend(std::coroutine_handle<> caller) noexcept {
        suspend(caller);
        std::lock_guard lock(event.mutex_);
        if (event.is_set()) return false;
        event.waiters_.push(*this);
        return true;
      }
      void await_resume() const noexcept {}
    };
    return Awaiter(*this);
  }

 private:
  std::atomic<bool> set_;
  std::mutex mutex_;
  ResumptionList waiters_;
};

}  // namespace strata
