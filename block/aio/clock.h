// SPDX-License-Identifier: GPL-2.0-or-later
//
// The seam to the kernel's time: an AioContext asks its clock and nothing else.
#pragma once

#include <chrono>

namespace strata {

using Duration = std::chrono::nanoseconds;
using TimePoint = std::chrono::time_point<std::chrono::steady_clock, Duration>;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint now() noexcept = 0;
  // Asked when a loop has nothing to do until `deadline`. A simulated clock moves there and returns
  // true; a real one returns false, and the loop sleeps.
  virtual bool skip_to(TimePoint deadline) noexcept = 0;

  // CLOCK_MONOTONIC.
  static Clock& monotonic() noexcept;
};

}  // namespace strata
