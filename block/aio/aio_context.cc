// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/aio_context.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include "block/aio/handler_memory.h"
#include "block/aio/request_clock.h"
#include "block/base/error.h"

namespace asio = boost::asio;

namespace strata {
namespace {

// A first guess for adaptive polling; the parameters' grow and shrink move on from here.
constexpr int64_t kFirstPollNs = 4000;
constexpr int64_t kDefaultGrow = 2;

// A busy loop looks at its reactor once in so many turns.
constexpr unsigned kBusyTurns = 4;

class MonotonicClock final : public Clock {
 public:
  TimePoint now() noexcept override { return std::chrono::steady_clock::now(); }
  bool skip_to(TimePoint) noexcept override { return false; }
};

// Only the context's own thread writes a counter, so it needs no locked instruction.
void add(std::atomic<uint64_t>& counter, uint64_t value) noexcept {
  counter.store(counter.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
}

int make_eventfd() {
  int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) throw Error::from_errno(errno, "Cannot create an event loop");
  return fd;
}

}  // namespace

Clock& Clock::monotonic() noexcept {
  static MonotonicClock clock;
  return clock;
}

// The Asio side: sleeping, and being woken by other threads through an eventfd.
struct AioContext::Reactor {
  Reactor() : wake_fd(io, make_eventfd()), deadline(io) { await_wake(); }

  void await_wake() {
    auto woken = [this](const boost::system::error_code& error) {
      if (error) return;
      uint64_t count = 0;
      std::ignore = ::read(wake_fd.native_handle(), &count, sizeof count);
      await_wake();
    };
    wake_fd.async_wait(asio::posix::stream_descriptor::wait_read,
                       asio::bind_allocator(HandlerAllocator<void>(wake_memory), woken));
  }

  void await_deadline(TimePoint when) {
    if (deadline_armed && when == deadline.expiry()) return;
    deadline_armed = true;
    deadline.expires_at(when);  // cancels the previous wait
    deadline.async_wait([this](const boost::system::error_code& error) {
      if (!error) deadline_armed = false;
    });
  }

  asio::io_context io{1};
  asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
  HandlerMemory wake_memory;
  asio::posix::stream_descriptor wake_fd;
  asio::steady_timer deadline;
  bool deadline_armed = false;
};

AioContext::AioContext(std::string name, Clock& clock)
    : name_(std::move(name)), clock_(clock), reactor_(std::make_unique<Reactor>()) {}

AioContext::~AioContext() {
  end_services();
  assert(timers_.empty() && "nobody sleeps in a context that ends");
}

void AioContext::end_services() noexcept {
  Bind bind(*this);
  while (!services_.empty()) services_.pop_back();
}

asio::io_context& AioContext::reactor() noexcept {
  return reactor_->io;
}

void AioContext::set_poll_parameters(PollParameters parameters) noexcept {
  poll_max_ns_.store(parameters.max_ns, std::memory_order_relaxed);
  poll_grow_.store(parameters.grow, std::memory_order_relaxed);
  poll_shrink_.store(parameters.shrink, std::memory_order_relaxed);
}

PollParameters AioContext::poll_parameters() const noexcept {
  return {poll_max_ns_.load(std::memory_order_relaxed), poll_grow_.load(std::memory_order_relaxed),
          poll_shrink_.load(std::memory_order_relaxed)};
}

void AioContext::set_thread_pool_limits(ThreadPoolLimits limits) noexcept {
  thread_pool_min_.store(limits.min, std::memory_order_relaxed);
  thread_pool_max_.store(limits.max, std::memory_order_relaxed);
}

ThreadPoolLimits AioContext::thread_pool_limits() const noexcept {
  return {thread_pool_min_.load(std::memory_order_relaxed),
          thread_pool_max_.load(std::memory_order_relaxed)};
}

int AioContext::wake_fd() const noexcept {
  return reactor_->wake_fd.native_handle();
}

void AioContext::run() {
  Bind bind(*this);
  while (!stop_.load(std::memory_order_acquire)) turn();
  stop_.store(false, std::memory_order_relaxed);
}

void AioContext::request_stop() noexcept {
  stop_.store(true, std::memory_order_release);
  wake();
}

void AioContext::drive(Task<void> task) {
  struct Run {
    static Task<void> guard(Task<void> body, std::exception_ptr& error, bool& done) {
      try {
        co_await std::move(body);
      } catch (...) {
        error = std::current_exception();
      }
      done = true;
    }
  };
  Bind bind(*this);
  std::exception_ptr error;
  bool done = false;
  {
    TaskScope scope;
    scope.spawn(Run::guard(std::move(task), error, done));
    while (!done) turn();
  }
  if (error) std::rethrow_exception(error);
}

void AioContext::schedule(Resumption& resumption) noexcept {
  if (is_current()) {
    scheduled_.push(resumption);
    return;
  }
  Resumption* top = inbox_.load(std::memory_order_relaxed);
  do {
    resumption.next = top;
  } while (!inbox_.compare_exchange_weak(top, &resumption, std::memory_order_seq_cst,
                                         std::memory_order_relaxed));
  wake();
}

// Costs a system call only if the context sleeps and nobody else has woken it yet.
void AioContext::wake() noexcept {
  if (!asleep_.load(std::memory_order_seq_cst) || !asleep_.exchange(false)) return;
  uint64_t one = 1;
  std::ignore = ::write(reactor_->wake_fd.native_handle(), &one, sizeof one);
}

bool AioContext::has_scheduled() const noexcept {
  return !scheduled_.empty() || inbox_.load(std::memory_order_seq_cst) != nullptr;
}

bool AioContext::run_scheduled() noexcept {
  if (inbox_.load(std::memory_order_relaxed) != nullptr) {
    Resumption* latest = inbox_.exchange(nullptr, std::memory_order_acquire);
    Resumption* first = nullptr;
    while (latest != nullptr) {  // turn the stack round
      Resumption* earlier = latest->next;
      latest->next = first;
      first = latest;
      latest = earlier;
    }
    while (first != nullptr) {
      Resumption* next = first->next;
      scheduled_.push(*first);
      first = next;
    }
  }
  if (scheduled_.empty()) return false;
  // What they schedule in turn waits for the next turn, so that nobody can keep the loop for
  // himself.
  ResumptionList due = scheduled_.take();
  while (!due.empty()) due.pop().handle.resume();
  return true;
}

void AioContext::add_poll_source(PollSource& source) {
  poll_sources_.push_back(&source);
}

void AioContext::remove_poll_source(PollSource& source) noexcept {
  std::erase(poll_sources_, &source);
}

bool AioContext::run_polled_sources() noexcept {
  bool progress = false;
  for (size_t i = 0; i < poll_sources_.size(); ++i) {
    poll_sources_[i]->submit();
    progress |= poll_sources_[i]->poll();
  }
  return progress;
}

bool AioContext::run_ready() noexcept {
  RequestClock::expire();
  bool progress = run_scheduled();
  progress |= run_polled_sources();
  if (!timers_.empty()) progress |= timers_.expire(clock_.now());
  return progress;
}

bool AioContext::do_work() {
  bool progress = run_ready();
  progress |= reactor_->io.poll() != 0;
  return progress;
}

// A loop that is about to sleep looks at its reactor by sleeping in it. One that is busy need not
// pay for a look on each turn.
void AioContext::turn() {
  add(counters_.turns, 1);
  if (run_ready()) {
    if (++busy_turns_ < kBusyTurns) return;
    busy_turns_ = 0;
    reactor_->io.poll();
    return;
  }
  busy_turns_ = 0;
  if (&clock_ != &Clock::monotonic()) {
    if (reactor_->io.poll() != 0) return;
    if (!timers_.empty() && clock_.skip_to(timers_.next_deadline())) return;
  }
  if (poll_for_a_while()) return;
  sleep();
}

bool AioContext::poll_for_a_while() {
  poll_ns_ = std::min(poll_ns_, poll_max_ns_.load(std::memory_order_relaxed));
  if (poll_ns_ == 0) return false;
  TimePoint start = Clock::monotonic().now();
  TimePoint now = start;
  TimePoint end = start + Duration(poll_ns_);
  bool progress = false;
  while (!progress && now < end && !stop_.load(std::memory_order_relaxed)) {
    progress = do_work();
    now = Clock::monotonic().now();
  }
  add(counters_.poll_ns, static_cast<uint64_t>((now - start).count()));
  add(progress ? counters_.poll_hits : counters_.poll_misses, 1);
  return progress;
}

void AioContext::sleep() {
  asleep_.store(true, std::memory_order_seq_cst);
  bool may_sleep = !has_scheduled() && !stop_.load(std::memory_order_seq_cst);
  size_t prepared = 0;
  while (may_sleep && prepared < poll_sources_.size())
    may_sleep = poll_sources_[prepared++]->prepare_sleep();
  if (may_sleep) {
    if (!timers_.empty()) reactor_->await_deadline(timers_.next_deadline());
    bool adaptive = poll_max_ns_.load(std::memory_order_relaxed) != 0;
    TimePoint start = adaptive ? Clock::monotonic().now() : TimePoint();
    add(counters_.sleeps, 1);
    reactor_->io.run_one();
    reactor_->io.poll();  // what else has become ready, so that it all is one turn's work
    if (adaptive) adapt_polling((Clock::monotonic().now() - start).count());
  }
  if (!asleep_.exchange(false, std::memory_order_seq_cst)) add(counters_.wake_ups, 1);
  for (size_t i = 0; i < prepared && i < poll_sources_.size(); ++i)
    poll_sources_[i]->finish_sleep();
}

// Polling is worth its while if what ended the sleep would have been seen by polling a little
// longer.
void AioContext::adapt_polling(int64_t waited_ns) noexcept {
  PollParameters parameters = poll_parameters();
  if (waited_ns + poll_ns_ > parameters.max_ns) {
    poll_ns_ = parameters.shrink == 0 ? 0 : poll_ns_ / parameters.shrink;
    return;
  }
  int64_t grow = parameters.grow == 0 ? kDefaultGrow : parameters.grow;
  poll_ns_ = poll_ns_ == 0 ? kFirstPollNs : poll_ns_ * grow;
  poll_ns_ = std::min(poll_ns_, parameters.max_ns);
}

}  // namespace strata
