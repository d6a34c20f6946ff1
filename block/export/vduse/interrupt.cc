// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/vduse/interrupt.h"

#include <algorithm>
#include <cerrno>
#include <chrono>

namespace strata::vduse {
namespace {

constexpr Duration kShortestPause = std::chrono::microseconds(100);
constexpr Duration kLongestPause = std::chrono::milliseconds(100);

}  // namespace

void Interrupt::raise() noexcept {
  if (stop_ || device_.interrupt(queue_).error_number() != EINVAL) return;
  stop_.emplace();
  scope_.spawn(repeat(stop_->token()));
}

Task<void> Interrupt::repeat(CancelToken cancel) {
  Duration pause = kShortestPause;
  while (co_await context_.sleep_for(pause, cancel)) {
    if (device_.interrupt(queue_).error_number() != EINVAL) {
      stop_.reset();
      co_return;
    }
    pause = std::min(pause * 2, kLongestPause);
  }
}

Task<void> Interrupt::stop() {
  if (stop_) stop_->cancel();
  co_await scope_.join();
  stop_.reset();
}

}  // namespace strata::vduse
