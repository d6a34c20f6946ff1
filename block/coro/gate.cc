// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/coro/gate.h"

#include <cassert>

namespace strata {

Gate::~Gate() {
  assert(inside() == 0 && outside_.empty() && "nobody uses a gate that ends");
}

size_t Gate::inside() const noexcept {
  long total = 0;
  for (const Lane& lane : lanes_) total += lane.count.load(std::memory_order_seq_cst);
  return static_cast<size_t>(total);
}

// Called with the gate shut: counts only fall now, but for those who look in and turn away, and
// each of them comes here again.
void Gate::wake_if_empty() noexcept {
  ResumptionList go;
  {
    std::lock_guard lock(mutex_);
    if (inside() != 0) return;
    go = emptiness_.take();
  }
  go.resume_all_later();
}

bool Gate::wait_outside(Resumption& waiter) noexcept {
  {
    std::lock_guard lock(mutex_);
    // open() holds the mutex too, so a gate found shut here will find this waiter when it opens.
    if (shut_.load(std::memory_order_seq_cst) != 0) {
      outside_.push(waiter);
      return true;
    }
    count_of(waiter.executor).fetch_add(1, std::memory_order_seq_cst);
    if (shut_.load(std::memory_order_seq_cst) == 0) return false;
    count_of(waiter.executor).fetch_sub(1, std::memory_order_seq_cst);
    outside_.push(waiter);
  }
  wake_if_empty();
  return true;
}

void Gate::open() noexcept {
  ResumptionList go;
  {
    std::lock_guard lock(mutex_);
    assert(shut_.load() > 0);
    if (shut_.fetch_sub(1, std::memory_order_seq_cst) != 1) return;
    ResumptionList waiting = outside_.take();
    while (!waiting.empty()) {
      Resumption& waiter = waiting.pop();
      count_of(waiter.executor).fetch_add(1, std::memory_order_seq_cst);
      go.push(waiter);
    }
  }
  go.resume_all_later();
}

Task<void> Gate::shut() {
  begin_shut();
  return empty();
}

Task<void> Gate::empty() {
  struct Awaiter : Resumption {
    explicit Awaiter(Gate& g) noexcept : gate(g) {}
    Gate& gate;
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> caller) noexcept {
      suspend(caller);
      std::lock_guard lock(gate.mutex_);
      if (gate.inside() == 0) return false;
      gate.emptiness_.push(*this);
      return true;
    }
    void await_resume() const noexcept {}
  };
  co_await Awaiter(*this);
}

}  // namespace strata
