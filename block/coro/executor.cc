// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/coro/executor.h"

#include <atomic>
#include <bit>
#include <cstdint>

namespace strata {
namespace {

thread_local Executor* this_threads_executor = nullptr;

// The one thing that executors of different block layers must share: which slots are taken. Where
// more than kSlots live at once, they share slots, which costs contention and nothing else.
std::atomic<uint64_t> taken_slots{0};
static_assert(Executor::kSlots == 64);

unsigned take_slot() noexcept {
  uint64_t taken = taken_slots.load();
  for (;;) {
    if (taken == UINT64_MAX) return Executor::kSlots - 1;
    unsigned slot = static_cast<unsigned>(std::countr_one(taken));
    if (taken_slots.compare_exchange_weak(taken, taken | (uint64_t{1} << slot))) return slot;
  }
}

}  // namespace

Executor* Executor::current() noexcept {
  return this_threads_executor;
}

Executor::Executor() noexcept : slot_(take_slot()) {}

// The last slot may be shared, so it is never given back.
Executor::~Executor() {
  if (slot_ != kSlots - 1) taken_slots.fetch_and(~(uint64_t{1} << slot_));
}

Executor::Bind::Bind(Executor& executor) noexcept
    : previous_(std::exchange(this_threads_executor, &executor)) {}

Executor::Bind::~Bind() {
  this_threads_executor = previous_;
}

}  // namespace strata
