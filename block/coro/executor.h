// SPDX-License-Identifier: GPL-2.0-or-later
//
// Where coroutines run: one executor a thread.
#pragma once

#include <coroutine>
#include <utility>

namespace strata {

class Executor;

// A suspended coroutine on its way back. It lives in the awaiter, inside the coroutine's own frame,
// so that scheduling allocates nothing; an executor forgets it before it resumes the coroutine.
struct Resumption {
  std::coroutine_handle<> handle;
  Executor* executor = nullptr;  // where the coroutine was suspended
  Resumption* next = nullptr;    // the executor's, or the waiting list's

  // Remembers the current executor.
  void suspend(std::coroutine_handle<> coroutine) noexcept;
  // Resumes it there on a later turn. Any thread.
  void resume_later() noexcept;
};

class Executor {
 public:
  // Executors of a process have different slots; per-executor counters index by it.
  static constexpr unsigned kSlots = 64;

  // The executor of this thread; null in a thread that has none.
  static Executor* current() noexcept;

  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // Resumes `resumption` in this executor's thread, on a later turn of its loop. Any thread may
  // call.
  virtual void schedule(Resumption& resumption) noexcept = 0;

  bool is_current() const noexcept { return current() == this; }
  unsigned slot() const noexcept { return slot_; }

 protected:
  Executor() noexcept;
  ~Executor();

  // Makes this the thread's executor while it lives.
  class Bind {
   public:
    explicit Bind(Executor& executor) noexcept;
    ~Bind();
    Bind(const Bind&) = delete;
    Bind& operator=(const Bind&) = delete;

   private:
    Executor* previous_;
  };

 private:
  unsigned slot_;
};

inline void Resumption::suspend(std::coroutine_handle<> coroutine) noexcept {
  handle = coroutine;
  executor = Executor::current();
}
inline void Resumption::resume_later() noexcept {
  executor->schedule(*this);
}

// A first-in first-out list of suspended coroutines. Not synchronised.
class ResumptionList {
 public:
  bool empty() const noexcept { return head_ == nullptr; }
  void push(Resumption& resumption) noexcept {
    resumption.next = nullptr;
    *tail_ = &resumption;
    tail_ = &resumption.next;
  }
  Resumption& pop() noexcept {
    Resumption& first = *head_;
    head_ = first.next;
    if (head_ == nullptr) tail_ = &head_;
    return first;
  }
  // Takes `resumption` out, wherever it stands. False if it was not in the list.
  bool remove(Resumption& resumption) noexcept {
    for (Resumption** link = &head_; *link != nullptr; link = &(*link)->next) {
      if (*link != &resumption) continue;
      *link = resumption.next;
      if (tail_ == &resumption.next) tail_ = link;
      return true;
    }
    return false;
  }
  // Everything, in order; the list is empty afterwards.
  ResumptionList take() noexcept {
    ResumptionList all;
    if (!empty()) {
      all.head_ = head_;
      all.tail_ = tail_;
      head_ = nullptr;
      tail_ = &head_;
    }
    return all;
  }
  void resume_all_later() noexcept {
    while (!empty()) pop().resume_later();
  }

  ResumptionList() noexcept = default;
  ResumptionList(ResumptionList&& other) noexcept { *this = std::move(other); }
  ResumptionList& operator=(ResumptionList&& other) noexcept {
    head_ = other.head_;
    tail_ = head_ != nullptr ? other.tail_ : &head_;
    other.head_ = nullptr;
    other.tail_ = &other.head_;
    return *this;
  }

 private:
  Resumption* head_ = nullptr;
  Resumption** tail_ = &head_;
};

}  // namespace strata
