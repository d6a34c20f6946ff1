// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/coro/mutex.h"

#include <cassert>

namespace strata {

Mutex::~Mutex() {
  assert(state_.load() == kFree && "a mutex is free when it ends");
}

bool Mutex::enqueue(Resumption& waiter) noexcept {
  uintptr_t state = state_.load(std::memory_order_relaxed);
  for (;;) {
    if (state == kFree) {
      if (state_.compare_exchange_weak(state, kHeld, std::memory_order_acquire,
                                       std::memory_order_relaxed))
        return false;
      continue;
    }
    waiter.next = reinterpret_cast<Resumption*>(state);  // kHeld is the null pointer
    if (state_.compare_exchange_weak(state, reinterpret_cast<uintptr_t>(&waiter),
                                     std::memory_order_release, std::memory_order_relaxed))
      return true;
  }
}

void Mutex::unlock() noexcept {
  if (waiters_ == nullptr) {
    uintptr_t expected = kHeld;
    if (state_.compare_exchange_strong(expected, kFree, std::memory_order_release,
                                       std::memory_order_relaxed))
      return;
    auto* latest = reinterpret_cast<Resumption*>(state_.exchange(kHeld, std::memory_order_acquire));
    while (latest != nullptr) {  // turn the stack round
      Resumption* earlier = latest->next;
      latest->next = waiters_;
      waiters_ = latest;
      latest = earlier;
    }
  }
  Resumption& next = *waiters_;
  waiters_ = next.next;
  next.resume_later();  // with the mutex still held, now by it
}

}  // namespace strata
