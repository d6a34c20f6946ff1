// SPDX-License-Identifier: GPL-2.0-or-later
//
// A gate counts who is inside, and can be shut: then nobody new gets in, and whoever shut it waits
// until those inside have left.
//
//   Gate::Pass pass = co_await gate.enter();     // a request, in any executor
//
//   co_await gate.shut();                        // drain begins
//   ...
//   gate.open();                                 // drain ends
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <mutex>
#include <utility>

#include "block/coro/executor.h"
#include "block/coro/task.h"

namespace strata {

// Requests of different executors count in different cache lines, so an open gate costs a request
// two uncontended atomic operations. A pass is given back in the executor in which it was taken.
class Gate {
 public:
  class [[nodiscard]] Pass {
   public:
    Pass() noexcept = default;
    Pass(Pass&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
    Pass& operator=(Pass&& other) noexcept {
      std::swap(gate_, other.gate_);
      return *this;
    }
    ~Pass() { leave(); }
    void leave() noexcept {
      if (Gate* gate = std::exchange(gate_, nullptr)) gate->leave();
    }
    explicit operator bool() const noexcept { return gate_ != nullptr; }

   private:
    friend class Gate;
    explicit Pass(Gate* gate) noexcept : gate_(gate) {}
    Gate* gate_ = nullptr;
  };

  Gate() noexcept = default;
  ~Gate();
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  // An empty Pass if the gate is shut.
  Pass try_enter() noexcept {
    count_here().fetch_add(1, std::memory_order_seq_cst);
    if (shut_.load(std::memory_order_seq_cst) == 0) [[likely]]
      return Pass(this);
    leave();
    return Pass();
  }

  // co_await yields a Pass; waits while the gate is shut.
  auto enter() noexcept {
    struct Awaiter : Resumption {
      explicit Awaiter(Gate& g) noexcept : gate(g), pass(g.try_enter()) {}
      Gate& gate;
      Pass pass;
      bool await_ready() const noexcept { return static_cast<bool>(pass); }
      bool await_suspend(std::coroutine_handle<> caller) noexcept {
        suspend(caller);
        return gate.wait_outside(*this);
      }
      // Whoever opened the gate counted this waiter in before waking it.
      Pass await_resume() noexcept { return pass ? std::move(pass) : Pass(&gate); }
    };
    return Awaiter(*this);
  }

  // Keeps new ones out from now on (shutting nests), then waits until all have left.
  Task<void> shut();
  // The first half of shut(): later, await empty().
  void begin_shut() noexcept { shut_.fetch_add(1, std::memory_order_seq_cst); }
  Task<void> empty();
  // Undoes one shut(); the last lets in those who wait.
  void open() noexcept;

  bool is_shut() const noexcept { return shut_.load(std::memory_order_acquire) != 0; }
  // Exact only while the gate is shut.
  size_t inside() const noexcept;
  // Whether someone waits at the shut gate.
  bool has_waiters() const noexcept {
    std::lock_guard lock(mutex_);
    return !outside_.empty();
  }

 private:
  static constexpr size_t kLanes = 16;
  struct alignas(64) Lane {
    std::atomic<long> count{0};
  };

  std::atomic<long>& count_of(const Executor* executor) noexcept {
    return lanes_[executor != nullptr ? executor->slot() % kLanes : 0].count;
  }
  std::atomic<long>& count_here() noexcept { return count_of(Executor::current()); }
  void leave() noexcept {
    count_here().fetch_sub(1, std::memory_order_seq_cst);
    if (shut_.load(std::memory_order_seq_cst) != 0) [[unlikely]]
      wake_if_empty();
  }
  void wake_if_empty() noexcept;
  bool wait_outside(Resumption& waiter) noexcept;  // false: in after all

  std::array<Lane, kLanes> lanes_;
  std::atomic<int> shut_{0};
  mutable std::mutex mutex_;
  ResumptionList outside_;    // wait for the gate to open
  ResumptionList emptiness_;  // wait for those inside to leave
};

}  // namespace strata
