// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/coro/range_lock.h"

#include <cassert>

namespace strata {

RangeLock::~RangeLock() {
  assert(idle() && "a RangeLock is free when it ends");
}

// Whether something earlier in the list is in the way of `hold` (or of a newcomer not yet in the
// list).
bool RangeLock::blocked(const Hold& hold) const noexcept {
  for (const Hold* earlier = first_; earlier != nullptr && earlier != &hold;
       earlier = earlier->next_) {
    if (hold.conflicts_with(*earlier)) return true;
  }
  return false;
}

void RangeLock::append(Hold& hold, Hold::State state) noexcept {
  hold.state_ = state;
  hold.previous_ = last_;
  hold.next_ = nullptr;
  (last_ != nullptr ? last_->next_ : first_) = &hold;
  last_ = &hold;
  count_.fetch_add(1, std::memory_order_acq_rel);
}

bool RangeLock::enqueue(Hold& hold) noexcept {
  std::lock_guard lock(mutex_);
  assert(hold.state_ == Hold::State::idle);
  bool wait = blocked(hold);
  append(hold, wait ? Hold::State::waiting : Hold::State::held);
  return wait;
}

bool RangeLock::try_enqueue(Hold& hold) noexcept {
  std::lock_guard lock(mutex_);
  if (blocked(hold)) return false;
  append(hold, Hold::State::held);
  return true;
}

void RangeLock::remove(Hold& hold) noexcept {
  ResumptionList go;
  {
    std::lock_guard lock(mutex_);
    (hold.previous_ != nullptr ? hold.previous_->next_ : first_) = hold.next_;
    (hold.next_ != nullptr ? hold.next_->previous_ : last_) = hold.previous_;
    hold.state_ = Hold::State::idle;
    count_.fetch_sub(1, std::memory_order_acq_rel);
    for (Hold* later = hold.next_; later != nullptr; later = later->next_) {
      if (later->state_ == Hold::State::waiting && later->conflicts_with(hold) &&
          !blocked(*later)) {
        later->state_ = Hold::State::held;
        go.push(later->waiter_);
      }
    }
  }
  go.resume_all_later();
}

}  // namespace strata
