// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <cassert>
#include <csignal>
#include <system_error>

namespace strata {
namespace {

// Signals are for the threads that run loops.
class AllSignalsBlocked {
 public:
  AllSignalsBlocked() noexcept {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  ~AllSignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace

ThreadPool::ThreadPool(AioContext& context) : context_(context) {}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    assert(first_ == nullptr && "nobody waits for a pool that ends");
    ending_ = true;
  }
  work_added_.notify_all();
  join(threads_);
  join(ended_);
}

void ThreadPool::join(Threads& threads) noexcept {
  for (std::thread& thread : threads) thread.join();
}

size_t ThreadPool::threads() const {
  std::lock_guard lock(mutex_);
  return threads_.size();
}

void ThreadPool::set_idle_time(Duration idle_time) {
  std::lock_guard lock(mutex_);
  idle_time_ = idle_time;
}

void ThreadPool::submit(Work& work) noexcept {
  Threads ended;
  if (!enqueue(work, ended)) work.work();  // the host has no thread for us
  join(ended);
}

// False if there is no thread.
bool ThreadPool::enqueue(Work& work, Threads& ended) noexcept {
  bool wake = false;
  {
    std::lock_guard lock(mutex_);
    ended.swap(ended_);
    ThreadPoolLimits limits = context_.thread_pool_limits();
    while (threads_.size() < limits.min && start_thread()) {
    }
    // Threads that have just been started or woken, and have not come yet, will take some of what
    // is queued.
    if (queued_ + busy_ >= threads_.size() && threads_.size() < limits.max) start_thread();
    if (threads_.empty()) return false;
    work.next_ = nullptr;
    *last_ = &work;
    last_ = &work.next_;
    ++queued_;
    wake = idle_ != 0;
  }
  if (wake) work_added_.notify_one();
  return true;
}

bool ThreadPool::start_thread() noexcept {
  try {
    AllSignalsBlocked blocked;
    auto self = threads_.emplace(threads_.end());
    try {
      *self = std::thread([this, self] { run_thread(self); });
    } catch (...) {
      threads_.erase(self);
      throw;
    }
    return true;
  } catch (const std::exception&) {  // no memory, or no thread
    return false;
  }
}

void ThreadPool::run_thread(Threads::iterator self) {
  ::pthread_setname_np(::pthread_self(), "worker");
  std::unique_lock lock(mutex_);
  while (Work* work = next_work(lock)) {
    ++busy_;
    lock.unlock();
    work->work();
    lock.lock();
    --busy_;
  }
  if (!ending_) ended_.splice(ended_.end(), threads_, self);
}

ThreadPool::Work* ThreadPool::next_work(std::unique_lock<std::mutex>& lock) {
  bool idled = false;
  for (;;) {
    if (first_ != nullptr) {
      Work* work = first_;
      first_ = work->next_;
      if (first_ == nullptr) last_ = &first_;
      --queued_;
      return work;
    }
    ThreadPoolLimits limits = context_.thread_pool_limits();
    if (ending_ || threads_.size() > limits.max || (idled && threads_.size() > limits.min))
      return nullptr;
    ++idle_;
    idled = work_added_.wait_for(lock, idle_time_) == std::cv_status::timeout;
    --idle_;
  }
}

}  // namespace strata
