// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <memory>

#include "block/coro/cancel.h"
#include "block/coro/executor.h"

namespace strata {

class AioContext;

// Waits in one AioContext until a descriptor can be read or written. The descriptor is borrowed, is
// non-blocking, and outlives the watch. At most one waiter a direction. Created, used and destroyed
// in the context's thread; nobody waits when it is destroyed.
class FdWatch {
 public:
  enum class Direction { read, write };

  FdWatch(AioContext& context, int fd);
  ~FdWatch();
  FdWatch(const FdWatch&) = delete;
  FdWatch& operator=(const FdWatch&) = delete;

  // co_await yields true when reading (writing) would not block or would fail at once, false if
  // cancelled. A descriptor that cannot be watched, such as a regular file, is always ready.
  auto readable(CancelToken cancel = {}) noexcept {
    return Awaiter(*this, Direction::read, cancel);
  }
  auto writable(CancelToken cancel = {}) noexcept {
    return Awaiter(*this, Direction::write, cancel);
  }

 private:
  struct Impl;

  class Awaiter final : Resumption, CancelSource::Subscription {
   public:
    Awaiter(FdWatch& watch, Direction direction, CancelToken cancel) noexcept
        : watch_(watch), direction_(direction), cancel_(cancel) {}
    bool await_ready() const noexcept { return cancel_.is_cancelled(); }
    void await_suspend(std::coroutine_handle<> caller) {
      suspend(caller);
      subscribe(cancel_);
      watch_.wait(direction_, *this);
    }
    bool await_resume() const noexcept { return !cancel_.is_cancelled(); }
    // The reactor's answer.
    void ready() noexcept {
      unlink();
      handle.resume();
    }

   private:
    void cancelled() noexcept override { watch_.cancel(); }

    FdWatch& watch_;
    Direction direction_;
    CancelToken cancel_;
  };

  void wait(Direction direction, Awaiter& awaiter);
  // Wakes both directions: a waiter that was not meant sees that its token still stands, and goes
  // on.
  void cancel() noexcept;

  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
