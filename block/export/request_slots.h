// SPDX-License-Identifier: GPL-2.0-or-later
//
// What doors whose requests come in numbers have in common: places for requests that are reused,
// and coroutines that nobody waits for.
#pragma once

#include <coroutine>
#include <exception>
#include <memory>
#include <vector>

#include "block/coro/frame_pool.h"

namespace strata {

// Slots that exist once and are used again and again. `Slot` has a member `Slot* next`, which is
// the list's while the slot is free. One thread's.
template <class Slot>
class RequestSlots {
 public:
  Slot& take() {
    if (free_ == nullptr) {
      all_.push_back(std::make_unique<Slot>());
      return *all_.back();
    }
    Slot& slot = *free_;
    free_ = slot.next;
    return slot;
  }
  void give_back(Slot& slot) noexcept {
    slot.next = free_;
    free_ = &slot;
  }

 private:
  std::vector<std::unique_ptr<Slot>> all_;
  Slot* free_ = nullptr;
};

// A coroutine that nobody awaits: its frame is all there is, and ends with its body. Whoever starts
// it counts what is under way.
struct RequestJob {
  struct promise_type {
    static void* operator new(size_t size) { return allocate_frame(size); }
    static void operator delete(void* frame, size_t size) noexcept { free_frame(frame, size); }
    RequestJob get_return_object() const noexcept { return {}; }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    void unhandled_exception() const noexcept { std::terminate(); }
  };
};

}  // namespace strata
