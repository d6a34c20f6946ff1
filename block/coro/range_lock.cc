// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/coro/range_lock.h"

#include <cassert>

namespace strata {

RangeLock::~RangeLock() {
  assert(idle() && "a RangeLock is free when it ends");
}

bool RangeLock::idle() const noexcept {
  std::lock_guard lock(mutex_);
  return first_ == nullptr && counted() == 0;
}

long RangeLock::counted() const noexcept {
  long total = 0;
  for (const Lane& lane : lanes_) total += lane.count.load(std::memory_order_seq_cst);
  return total;
}

namespace {

size_t lane_here() noexcept {
  const Executor* executor = Executor::current();
  return executor != nullptr ? executor->slot() : 0;
}

}  // namespace

// The counter and the flag are written and read in opposite orders here and in enqueue(), so either
// the exclusive one sees the count, or this one sees the flag.
bool RangeLock::try_count(Hold& hold) noexcept {
  assert(hold.state_ == Hold::State::idle);
  hold.state_ = Hold::State::counted;
  lanes_[lane_here() % kLanes].count.fetch_add(1, std::memory_order_seq_cst);
  if (exclusive_.load(std::memory_order_seq_cst) == 0) [[likely]]
    return true;
  uncount(hold);
  return false;
}

void RangeLock::uncount(Hold& hold) noexcept {
  hold.state_ = Hold::State::idle;
  lanes_[lane_here() % kLanes].count.fetch_sub(1, std::memory_order_seq_cst);
  if (exclusive_.load(std::memory_order_seq_cst) == 0) [[likely]]
    return;
  ResumptionList go;
  {
    std::lock_guard lock(mutex_);
    grant_waiters(go);
  }
  go.resume_all_later();
}

// Whether something is in the way of `hold`, which is in the list or a newcomer.
bool RangeLock::blocked(const Hold& hold) const noexcept {
  if (hold.mode_ == Mode::exclusive && counted() != 0) return true;
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
}

void RangeLock::unlink(Hold& hold) noexcept {
  (hold.previous_ != nullptr ? hold.previous_->next_ : first_) = hold.next_;
  (hold.next_ != nullptr ? hold.next_->previous_ : last_) = hold.previous_;
  hold.state_ = Hold::State::idle;
  if (hold.mode_ == Mode::exclusive) exclusive_.fetch_sub(1, std::memory_order_seq_cst);
}

bool RangeLock::enqueue(Hold& hold) noexcept {
  std::lock_guard lock(mutex_);
  assert(hold.state_ == Hold::State::idle);
  if (hold.mode_ == Mode::exclusive) exclusive_.fetch_add(1, std::memory_order_seq_cst);
  bool wait = blocked(hold);
  append(hold, wait ? Hold::State::waiting : Hold::State::held);
  return wait;
}

bool RangeLock::try_enqueue(Hold& hold) noexcept {
  ResumptionList go;
  bool held = true;
  {
    std::lock_guard lock(mutex_);
    if (hold.mode_ == Mode::exclusive) exclusive_.fetch_add(1, std::memory_order_seq_cst);
    held = !blocked(hold);
    append(hold, Hold::State::held);
    if (!held) {
      unlink(hold);
      grant_waiters(go);
    }
  }
  go.resume_all_later();
  return held;
}

void RangeLock::grant_waiters(ResumptionList& go) noexcept {
  for (Hold* hold = first_; hold != nullptr; hold = hold->next_) {
    if (hold->state_ != Hold::State::waiting || blocked(*hold)) continue;
    hold->state_ = Hold::State::held;
    go.push(hold->waiter_);
  }
}

void RangeLock::remove(Hold& hold) noexcept {
  ResumptionList go;
  {
    std::lock_guard lock(mutex_);
    unlink(hold);
    grant_waiters(go);
  }
  go.resume_all_later();
}

}  // namespace strata
