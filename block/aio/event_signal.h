// SPDX-License-Identifier: GPL-2.0-or-later
//
// Signals an eventfd that somebody else holds, too, and never waits. Whether a write waits is a
// property that all holders of a descriptor share: the other side can fill the counter and take
// O_NONBLOCK away at any time. So the kernel is asked to signal it as it does for a ring's
// completions, which knows no waiting.
#pragma once

#include <memory>

#include "block/base/unique_fd.h"

namespace strata {

// Used by one thread at a time.
class EventSignal {
 public:
  EventSignal() noexcept;
  ~EventSignal();
  EventSignal(const EventSignal&) = delete;
  EventSignal& operator=(const EventSignal&) = delete;

  // An eventfd, or nothing. Where the kernel gives no ring, signals are writes after all, and `fd`
  // had better be non-blocking.
  void set(UniqueFd fd) noexcept;
  UniqueFd take() noexcept;
  explicit operator bool() const noexcept { return static_cast<bool>(fd_); }

  void signal() noexcept;

 private:
  struct Ring;

  UniqueFd fd_;
  std::unique_ptr<Ring> ring_;  // kept from one descriptor to the next
};

}  // namespace strata
