// SPDX-License-Identifier: GPL-2.0-or-later
//
// The time for what is counted about requests, at a fraction of a clock's price: requests that
// follow each other in one turn of the loop share a look at it. Too early by what a few requests
// take of the processor, never by what they wait.
#pragma once

#include "block/aio/clock.h"

namespace strata {

// This thread's.
class RequestClock {
 public:
  static TimePoint now() noexcept {
    if (left_ == 0) {
      now_ = std::chrono::steady_clock::now();
      left_ = kLooks;
    }
    --left_;
    return now_;
  }
  // Time has passed: a turn of the loop begins, or a system call was made in the midst of one.
  static void expire() noexcept { left_ = 0; }

 private:
  static constexpr unsigned kLooks = 16;

  inline static constinit thread_local TimePoint now_{};
  inline static constinit thread_local unsigned left_ = 0;
};

}  // namespace strata
