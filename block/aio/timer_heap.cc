// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/timer_heap.h"

#include <cassert>

namespace strata {

void TimerHeap::place(Timer* timer, size_t index) noexcept {
  heap_[index] = timer;
  timer->index_ = index;
}

void TimerHeap::sift_up(size_t index) noexcept {
  Timer* timer = heap_[index];
  while (index != 0) {
    size_t parent = (index - 1) / 2;
    if (heap_[parent]->deadline_ <= timer->deadline_) break;
    place(heap_[parent], index);
    index = parent;
  }
  place(timer, index);
}

void TimerHeap::sift_down(size_t index) noexcept {
  Timer* timer = heap_[index];
  for (;;) {
    size_t child = 2 * index + 1;
    if (child >= heap_.size()) break;
    if (child + 1 < heap_.size() && heap_[child + 1]->deadline_ < heap_[child]->deadline_) ++child;
    if (timer->deadline_ <= heap_[child]->deadline_) break;
    place(heap_[child], index);
    index = child;
  }
  place(timer, index);
}

void TimerHeap::arm(Timer& timer, TimePoint deadline) {
  assert(!timer.is_armed());
  timer.deadline_ = deadline;
  heap_.push_back(&timer);
  sift_up(heap_.size() - 1);
}

void TimerHeap::disarm(Timer& timer) noexcept {
  if (!timer.is_armed()) return;
  size_t index = timer.index_;
  timer.index_ = Timer::kIdle;
  Timer* last = heap_.back();
  heap_.pop_back();
  if (last == &timer) return;
  place(last, index);
  sift_up(index);
  sift_down(last->index_);
}

bool TimerHeap::expire(TimePoint now) noexcept {
  bool any = false;
  while (!heap_.empty() && heap_.front()->deadline_ <= now) {
    Timer* timer = heap_.front();
    disarm(*timer);
    timer->expired();
    any = true;
  }
  return any;
}

}  // namespace strata
