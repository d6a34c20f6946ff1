// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstddef>
#include <vector>

#include "block/aio/clock.h"

namespace strata {

// Timers of one AioContext by deadline. The timers are their owners'; the heap holds pointers.
class TimerHeap {
 public:
  class Timer {
   public:
    bool is_armed() const noexcept { return index_ != kIdle; }
    TimePoint deadline() const noexcept { return deadline_; }

   protected:
    Timer() noexcept = default;
    ~Timer() = default;
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;
    // The deadline has passed; the timer is no longer armed.
    virtual void expired() noexcept = 0;

   private:
    friend class TimerHeap;
    static constexpr size_t kIdle = SIZE_MAX;
    TimePoint deadline_;
    size_t index_ = kIdle;
  };

  void arm(Timer& timer, TimePoint deadline);
  void disarm(Timer& timer) noexcept;
  bool empty() const noexcept { return heap_.empty(); }
  // Of the timer that is due first. Not while empty.
  TimePoint next_deadline() const noexcept { return heap_.front()->deadline_; }
  // Calls expired() on all that are due; true if there were any.
  bool expire(TimePoint now) noexcept;

 private:
  void place(Timer* timer, size_t index) noexcept;
  void sift_up(size_t index) noexcept;
  void sift_down(size_t index) noexcept;

  std::vector<Timer*> heap_;
};

}  // namespace strata
