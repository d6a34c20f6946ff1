// SPDX-License-Identifier: GPL-2.0-or-later
//
// AioContext: the event loop of one thread.
//
// A turn of the loop resumes what was scheduled, lets the poll sources (the disk engines' rings)
// submit what was queued and reap what is done, runs what the reactor (a boost::asio::io_context)
// has, and fires timers. A loop with nothing to do first polls for a while, as long as that has
// been paying (adaptive polling), and then sleeps in the reactor.
#pragma once

#include <array>
#include <atomic>
#include <cassert>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/aio/clock.h"
#include "block/aio/timer_heap.h"
#include "block/coro/cancel.h"
#include "block/coro/executor.h"
#include "block/coro/scope.h"
#include "block/coro/task.h"

namespace boost::asio {
class io_context;
}

namespace strata {

// What a context looks at on each turn besides its reactor. Called in the context's thread.
class PollSource {
 public:
  virtual ~PollSource() = default;
  // Hands over what was queued during the turn, in one system call if it can.
  virtual void submit() noexcept {}
  // Looks for completions without waiting; true if there were any.
  virtual bool poll() noexcept = 0;
  // The loop is about to sleep: makes sure that a completion from now on wakes the reactor. False
  // if there is something to do at once.
  virtual bool prepare_sleep() noexcept { return true; }
  // The loop is awake again, or polls instead.
  virtual void finish_sleep() noexcept {}
};

// The options poll-max-ns, poll-grow and poll-shrink of iothread and main-loop objects.
struct PollParameters {
  int64_t max_ns = 0;  // 0 turns polling off
  int64_t grow = 0;    // factor; 0 stands for 2
  int64_t shrink = 0;  // divisor; 0 goes back to no polling at once
};

// The options thread-pool-min and thread-pool-max: of the threads that do for a context what the
// kernel only does blocking.
struct ThreadPoolLimits {
  size_t min = 0;
  size_t max = 64;  // at least min; 0: the context does it
};

class AioContext final : public Executor {
 public:
  // Only the context's thread writes them; any thread may read.
  struct Counters {
    std::atomic<uint64_t> turns{0};
    std::atomic<uint64_t> sleeps{0};
    std::atomic<uint64_t> poll_hits{0};    // polled, and something came
    std::atomic<uint64_t> poll_misses{0};  // polled in vain, and slept
    std::atomic<uint64_t> poll_ns{0};
    std::atomic<uint64_t> wake_ups{0};  // by other threads, while asleep
  };

  explicit AioContext(std::string name, Clock& clock = Clock::monotonic());
  ~AioContext();

  static AioContext* current() noexcept { return static_cast<AioContext*>(Executor::current()); }

  const std::string& name() const noexcept { return name_; }
  Clock& clock() const noexcept { return clock_; }
  TimePoint now() const noexcept { return clock_.now(); }
  const Counters& counters() const noexcept { return counters_; }

  // Any thread may set them; they are in force from the next turn on.
  void set_poll_parameters(PollParameters parameters) noexcept;
  PollParameters poll_parameters() const noexcept;

  // Any thread; in force from the next piece of work on.
  void set_thread_pool_limits(ThreadPoolLimits limits) noexcept;
  ThreadPoolLimits thread_pool_limits() const noexcept;
  // The option aio-max-batch: how many requests a disk engine gathers before it hands them to the
  // kernel in mid-turn; 0 leaves it to the engine. Any thread.
  void set_aio_max_batch(uint32_t requests) noexcept { aio_max_batch_.store(requests); }
  uint32_t aio_max_batch() const noexcept { return aio_max_batch_.load(std::memory_order_relaxed); }

  // Runs the loop in this thread until request_stop().
  void run();
  // Any thread.
  void request_stop() noexcept;

  // For main() of tools and for tests: runs the loop until `task` has ended.
  template <class T>
  T run_to_completion(Task<T> task);

  void schedule(Resumption& resumption) noexcept override;
  // Makes the loop look at its poll sources, even if it sleeps. Any thread.
  void poke() noexcept { wake(); }
  // An eventfd whose signal ends the loop's sleep, for parts of the kernel that can signal one.
  int wake_fd() const noexcept;

  // co_await yields true when the time has come, false if cancelled before.
  auto sleep_until(TimePoint deadline, CancelToken cancel = {}) noexcept;
  auto sleep_for(Duration duration, CancelToken cancel = {}) noexcept;
  // Lets everything else in this context have a turn.
  auto yield() noexcept;

  // In this context's thread only.
  void add_poll_source(PollSource& source);
  void remove_poll_source(PollSource& source) noexcept;
  TimerHeap& timers() noexcept { return timers_; }

  // The one Service of this context, made when first asked for (in this context's thread) and
  // destroyed with the context, in reverse order. A Service has a constructor taking AioContext&.
  template <class Service>
  Service& service();
  // Destroys them earlier, in this context's thread, so that what is the kernel's per thread is
  // given back there.
  void end_services() noexcept;

  boost::asio::io_context& reactor() noexcept;

 private:
  struct Reactor;
  struct ServiceSlot {
    const void* key = nullptr;
    std::shared_ptr<void> service;
  };

  void drive(Task<void> task);
  void turn();
  bool run_ready() noexcept;  // all but the reactor; true if there was anything to do
  bool do_work();             // without sleeping; true if there was any
  bool run_scheduled() noexcept;
  bool run_polled_sources() noexcept;
  bool has_scheduled() const noexcept;
  bool poll_for_a_while();
  void sleep();
  void adapt_polling(int64_t waited_ns) noexcept;
  void wake() noexcept;

  std::string name_;
  Clock& clock_;
  Counters counters_;

  // Shared with other threads.
  std::atomic<Resumption*> inbox_{nullptr};  // a stack
  std::atomic<bool> asleep_{false};
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> poll_max_ns_{0};
  std::atomic<int64_t> poll_grow_{0};
  std::atomic<int64_t> poll_shrink_{0};
  std::atomic<size_t> thread_pool_min_{ThreadPoolLimits{}.min};
  std::atomic<size_t> thread_pool_max_{ThreadPoolLimits{}.max};
  std::atomic<uint32_t> aio_max_batch_{0};

  // The context's thread only.
  ResumptionList scheduled_;
  TimerHeap timers_;
  std::vector<PollSource*> poll_sources_;
  unsigned busy_turns_ = 0;
  int64_t poll_ns_ = 0;
  std::unique_ptr<Reactor> reactor_;
  std::vector<ServiceSlot> services_;
};

namespace detail {

class SleepAwaiter final : Resumption, TimerHeap::Timer, CancelSource::Subscription {
 public:
  SleepAwaiter(AioContext& context, TimePoint deadline, CancelToken cancel) noexcept
      : context_(context), due_(deadline), cancel_(cancel) {}

  bool await_ready() const noexcept { return cancel_.is_cancelled(); }
  void await_suspend(std::coroutine_handle<> caller) {
    suspend(caller);
    context_.timers().arm(*this, due_);
    subscribe(cancel_);
  }
  bool await_resume() const noexcept { return !cancel_.is_cancelled(); }

 private:
  void expired() noexcept override {
    unlink();
    resume_later();
  }
  void cancelled() noexcept override {
    context_.timers().disarm(*this);
    resume_later();
  }

  AioContext& context_;
  TimePoint due_;
  CancelToken cancel_;
};

struct YieldAwaiter : Resumption {
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> caller) noexcept {
    suspend(caller);
    resume_later();
  }
  void await_resume() const noexcept {}
};

template <class Service>
inline constexpr char kServiceKey = 0;

template <class T>
Task<void> store_result(Task<T> task, std::optional<T>& result) {
  result.emplace(co_await std::move(task));
}

}  // namespace detail

inline auto AioContext::sleep_until(TimePoint deadline, CancelToken cancel) noexcept {
  return detail::SleepAwaiter(*this, deadline, cancel);
}
inline auto AioContext::sleep_for(Duration duration, CancelToken cancel) noexcept {
  return detail::SleepAwaiter(*this, now() + duration, cancel);
}
inline auto AioContext::yield() noexcept {
  return detail::YieldAwaiter();
}

template <class Service>
Service& AioContext::service() {
  const void* key = &detail::kServiceKey<Service>;
  for (ServiceSlot& slot : services_) {
    if (slot.key == key) return *static_cast<Service*>(slot.service.get());
  }
  auto service = std::make_shared<Service>(*this);
  services_.push_back({key, service});
  return *service;
}

template <class T>
T AioContext::run_to_completion(Task<T> task) {
  if constexpr (std::is_void_v<T>) {
    drive(std::move(task));
  } else {
    std::optional<T> result;
    drive(detail::store_result(std::move(task), result));
    return *std::move(result);
  }
}

}  // namespace strata
