// SPDX-License-Identifier: GPL-2.0-or-later
//
// Locks on byte ranges: any number of shared holders, or one exclusive holder, of each byte.
//
//   RangeLock::Hold hold(lock, {offset, bytes}, RangeLock::Mode::exclusive);
//   co_await hold.acquire();
//   ...                                   // released by its destructor
#pragma once

#include <atomic>
#include <mutex>

#include "block/base/math.h"
#include "block/coro/executor.h"

namespace strata {

// For coroutines of any executor. Those who wait are served in the order of their coming, and
// nobody overtakes a waiter with whom he conflicts, so writers do not starve. A hold lives in its
// user's frame; nothing is allocated. Cost grows with the number of holds at one time.
class RangeLock {
 public:
  enum class Mode { shared, exclusive };

  class Hold {
   public:
    Hold(RangeLock& lock, ByteRange range, Mode mode) noexcept
        : lock_(lock), range_(range), mode_(mode) {}
    ~Hold() { release(); }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

    ByteRange range() const noexcept { return range_; }

    // Once per hold.
    auto acquire() noexcept {
      struct Awaiter {
        Hold& hold;
        bool await_ready() const noexcept { return false; }
        bool await_suspend(std::coroutine_handle<> caller) noexcept {
          hold.waiter_.suspend(caller);
          return hold.lock_.enqueue(hold);
        }
        void await_resume() const noexcept {}
      };
      return Awaiter{*this};
    }
    // Takes it if that needs no waiting.
    bool try_acquire() noexcept { return lock_.try_enqueue(*this); }
    void release() noexcept {
      if (state_ != State::idle) lock_.remove(*this);
    }

   private:
    friend class RangeLock;
    enum class State { idle, waiting, held };

    bool conflicts_with(const Hold& other) const noexcept {
      return (mode_ == Mode::exclusive || other.mode_ == Mode::exclusive) &&
             range_.overlaps(other.range_);
    }

    RangeLock& lock_;
    ByteRange range_;
    Mode mode_;
    State state_ = State::idle;
    Resumption waiter_;
    Hold* previous_ = nullptr;
    Hold* next_ = nullptr;
  };

  RangeLock() noexcept = default;
  ~RangeLock();
  RangeLock(const RangeLock&) = delete;
  RangeLock& operator=(const RangeLock&) = delete;

  bool idle() const noexcept { return count_.load(std::memory_order_acquire) == 0; }

 private:
  bool enqueue(Hold& hold) noexcept;      // true: has to wait
  bool try_enqueue(Hold& hold) noexcept;  // true: held
  void remove(Hold& hold) noexcept;
  bool blocked(const Hold& hold) const noexcept;
  void append(Hold& hold, Hold::State state) noexcept;

  std::mutex mutex_;
  // In the order of their coming, holders and waiters alike.
  Hold* first_ = nullptr;
  Hold* last_ = nullptr;
  std::atomic<size_t> count_{0};
};

}  // namespace strata
