// SPDX-License-Identifier: GPL-2.0-or-later
//
// Locks on byte ranges: any number of shared holders, or one exclusive holder, of each byte.
//
//   RangeLock::Hold hold(lock, {offset, bytes}, RangeLock::Mode::exclusive);
//   co_await hold.acquire();
//   ...                                   // released by its destructor
#pragma once

#include <array>
#include <atomic>
#include <mutex>

#include "block/base/math.h"
#include "block/coro/executor.h"

namespace strata {

// For coroutines of any executor. Those who wait are served in the order of their coming, and
// nobody overtakes a waiter with whom he conflicts, so writers do not starve. A hold lives in its
// user's frame; nothing is allocated. It is released in the executor in which it was acquired.
//
// Where nobody holds or wants anything exclusively, a shared hold is only counted, in a cache line
// of its executor: two uncontended atomic operations. The price is paid by exclusive holders: each
// waits for all shared holders who came before the first of them, overlapping or not.
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

    // Once at a time.
    auto acquire() noexcept {
      struct Awaiter {
        Hold& hold;
        bool await_ready() const noexcept {
          return hold.mode_ == Mode::shared && hold.lock_.try_count(hold);
        }
        bool await_suspend(std::coroutine_handle<> caller) noexcept {
          hold.waiter_.suspend(caller);
          return hold.lock_.enqueue(hold);
        }
        void await_resume() const noexcept {}
      };
      return Awaiter{*this};
    }
    // Takes it if that needs no waiting.
    bool try_acquire() noexcept {
      if (mode_ == Mode::shared && lock_.try_count(*this)) return true;
      return lock_.try_enqueue(*this);
    }
    void release() noexcept {
      if (state_ == State::counted)
        lock_.uncount(*this);
      else if (state_ != State::idle)
        lock_.remove(*this);
    }

   private:
    friend class RangeLock;
    enum class State { idle, counted, waiting, held };

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

  // Whether nobody holds or waits. A snapshot.
  bool idle() const noexcept;

 private:
  static constexpr size_t kLanes = 16;
  struct alignas(64) Lane {
    std::atomic<long> count{0};
  };

  bool try_count(Hold& hold) noexcept;
  void uncount(Hold& hold) noexcept;
  bool enqueue(Hold& hold) noexcept;      // true: has to wait
  bool try_enqueue(Hold& hold) noexcept;  // true: held
  void remove(Hold& hold) noexcept;
  bool blocked(const Hold& hold) const noexcept;
  void append(Hold& hold, Hold::State state) noexcept;
  void unlink(Hold& hold) noexcept;
  void grant_waiters(ResumptionList& go) noexcept;
  long counted() const noexcept;

  std::array<Lane, kLanes> lanes_;
  std::atomic<int> exclusive_{0};  // exclusive holds in the list: while any, nobody is counted anew
  mutable std::mutex mutex_;
  Hold* first_ = nullptr;  // in the order of their coming, holders and waiters alike
  Hold* last_ = nullptr;
};

}  // namespace strata
