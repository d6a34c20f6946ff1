// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cassert>
#include <utility>

#include "block/coro/executor.h"

namespace strata {

// Lets one coroutine tell another of the same context that there is something to do. What is raised
// while nobody waits is remembered once.
class Signal {
 public:
  Signal() noexcept = default;
  Signal(const Signal&) = delete;
  Signal& operator=(const Signal&) = delete;

  // One waiter at a time.
  auto wait() noexcept {
    struct Awaiter : Resumption {
      explicit Awaiter(Signal& s) noexcept : signal(s) {}
      Signal& signal;
      bool await_ready() const noexcept { return std::exchange(signal.raised_, false); }
      void await_suspend(std::coroutine_handle<> caller) noexcept {
        assert(signal.waiter_ == nullptr);
        suspend(caller);
        signal.waiter_ = this;
      }
      void await_resume() const noexcept {}
    };
    return Awaiter(*this);
  }

  // Runs the waiter at once, inside this call, until it waits for something.
  void raise_now() {
    if (Resumption* waiter = std::exchange(waiter_, nullptr)) {
      waiter->handle.resume();
    } else {
      raised_ = true;
    }
  }
  // Runs the waiter on the next turn of the loop.
  void raise_later() noexcept {
    if (Resumption* waiter = std::exchange(waiter_, nullptr)) {
      waiter->resume_later();
    } else {
      raised_ = true;
    }
  }

 private:
  Resumption* waiter_ = nullptr;
  bool raised_ = false;
};

}  // namespace strata
