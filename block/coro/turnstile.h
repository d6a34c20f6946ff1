// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <vector>

#include "block/coro/executor.h"

namespace strata {

// Lets coroutines of any executor pass one at a time, in the order in which they drew their
// numbers: what is done side by side between the two comes out in order.
class Turnstile {
 public:
  Turnstile() noexcept = default;
  Turnstile(const Turnstile&) = delete;
  Turnstile& operator=(const Turnstile&) = delete;

  // A place in the order. Whoever has it lets the next one pass by done(), or by letting it go,
  // waited for or not.
  class [[nodiscard]] Turn {
   public:
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() { done(); }
    // Ends when all that were drawn before are done.
    auto wait() noexcept { return Awaiter(*this); }
    void done() noexcept {
      if (std::exchange(done_, true)) return;
      turnstile_.leave(number_);
    }

   private:
    friend class Turnstile;
    explicit Turn(Turnstile& turnstile) noexcept : turnstile_(turnstile) {
      std::lock_guard lock(turnstile_.mutex_);
      number_ = turnstile_.next_++;
    }
    Turnstile& turnstile_;
    uint64_t number_ = 0;
    bool done_ = false;
  };

  Turn draw() noexcept { return Turn(*this); }

 private:
  struct Awaiter : Resumption {
    explicit Awaiter(Turn& t) noexcept : turn(t) {}
    Turn& turn;
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> caller) {
      suspend(caller);
      std::lock_guard lock(turn.turnstile_.mutex_);
      if (turn.turnstile_.now_ == turn.number_) return false;
      turn.turnstile_.waiting_.push_back(this);
      return true;
    }
    void await_resume() const noexcept {}
  };

  void leave(uint64_t number) noexcept {
    Awaiter* next = nullptr;
    {
      std::lock_guard lock(mutex_);
      left_.push_back(number);
      for (auto found = left_.begin();
           (found = std::find(left_.begin(), left_.end(), now_)) != left_.end(); ++now_)
        left_.erase(found);
      auto waiter = std::find_if(waiting_.begin(), waiting_.end(),
                                 [&](const Awaiter* one) { return one->turn.number_ == now_; });
      if (waiter != waiting_.end()) {
        next = *waiter;
        waiting_.erase(waiter);
      }
    }
    if (next != nullptr) next->resume_later();
  }

  std::mutex mutex_;
  uint64_t next_ = 0;
  uint64_t now_ = 0;
  std::vector<uint64_t> left_;  // before their turn
  std::vector<Awaiter*> waiting_;
};

}  // namespace strata
