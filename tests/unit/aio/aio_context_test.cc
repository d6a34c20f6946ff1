// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/aio_context.h"

#include <catch2/catch.hpp>
#include <stdexcept>
#include <string>
#include <thread>

#include "block/aio/iothread.h"
#include "block/aio/run_in.h"
#include "block/coro/event.h"

namespace strata {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Time passes when everybody waits for it, and then at once.
class SimulatedClock final : public Clock {
 public:
  TimePoint now() noexcept override { return now_; }
  bool skip_to(TimePoint deadline) noexcept override {
    now_ = std::max(now_, deadline);
    return true;
  }

 private:
  TimePoint now_{seconds(1000)};
};

Task<void> note_after(AioContext& context, Duration delay, std::string& order, char name) {
  bool slept = co_await context.sleep_for(delay);
  CHECK(slept);
  order += name;
}

Task<void> sleep_in_turn(AioContext& context, std::string& order) {
  TimePoint start = context.now();
  TaskScope scope;
  scope.spawn(note_after(context, seconds(3), order, 'c'));
  scope.spawn(note_after(context, seconds(1), order, 'a'));
  scope.spawn(note_after(context, seconds(7200), order, 'd'));
  scope.spawn(note_after(context, seconds(2), order, 'b'));
  co_await scope.join();
  CHECK(context.now() - start == seconds(7200));
}

TEST_CASE("Sleepers wake in the order of their deadlines, at those times") {
  SimulatedClock clock;
  AioContext context("test", clock);
  std::string order;
  context.run_to_completion(sleep_in_turn(context, order));
  CHECK(order == "abcd");
}

Task<void> sleep_cancellable(AioContext& context, CancelToken cancel, bool& completed) {
  completed = co_await context.sleep_for(seconds(100), cancel);
}

Task<void> cancel_a_sleep(AioContext& context) {
  CancelSource source;
  bool completed = true;
  TaskScope scope;
  TimePoint start = context.now();
  scope.spawn(sleep_cancellable(context, source.token(), completed));
  co_await context.sleep_for(seconds(1));
  source.cancel();
  co_await scope.join();
  CHECK_FALSE(completed);
  CHECK(context.now() - start == seconds(1));
  bool again = co_await context.sleep_for(seconds(100), source.token());
  CHECK_FALSE(again);
  CHECK(context.now() - start == seconds(1));
}

TEST_CASE("A cancelled sleep ends at once and says so") {
  SimulatedClock clock;
  AioContext context("test", clock);
  context.run_to_completion(cancel_a_sleep(context));
}

Task<void> many_sleepers(AioContext& context) {
  struct Sleeper {
    static Task<void> run(AioContext& context, int ms, CancelToken cancel, int& woken) {
      TimePoint due = context.now() + milliseconds(ms);
      if (!co_await context.sleep_for(milliseconds(ms), cancel)) co_return;
      CHECK(context.now() == due);
      ++woken;
    }
  };
  CancelSource source;
  int woken = 0;
  TaskScope scope;
  for (int i = 0; i < 1000; ++i)
    scope.spawn(
        Sleeper::run(context, i * 7919 % 1009, i % 2 ? source.token() : CancelToken(), woken));
  co_await context.sleep_for(milliseconds(500));
  int before = woken;
  CHECK(before > 400);
  source.cancel();
  co_await scope.join();
  CHECK(woken > before);
  CHECK(woken < 1000);
}

TEST_CASE("Any number of timers are kept in order, and any of them taken away") {
  SimulatedClock clock;
  AioContext context("test", clock);
  context.run_to_completion(many_sleepers(context));
}

Task<void> alternate(AioContext& context, std::string& order, char name) {
  for (int i = 0; i < 3; ++i) {
    order += name;
    co_await context.yield();
  }
}

TEST_CASE("A task that yields lets the others have a turn") {
  AioContext context("test");
  std::string order;
  struct Both {
    static Task<void> run(AioContext& context, std::string& order) {
      TaskScope scope;
      scope.spawn(alternate(context, order, 'a'));
      scope.spawn(alternate(context, order, 'b'));
      co_await scope.join();
    }
  };
  context.run_to_completion(Both::run(context, order));
  CHECK(order == "ababab");
}

Task<int> add(int a, int b) {
  co_await AioContext::current()->yield();
  co_return a + b;
}
Task<int> refuse() {
  co_await AioContext::current()->yield();
  throw std::runtime_error("no");
}

TEST_CASE("run_to_completion gives the task's value or throws what it throws") {
  AioContext context("test");
  CHECK(context.run_to_completion(add(1, 2)) == 3);
  CHECK_THROWS_WITH(context.run_to_completion(refuse()), "no");
  CHECK(context.run_to_completion(Task<int>::ready(4)) == 4);
}

Task<std::thread::id> my_thread() {
  co_return std::this_thread::get_id();
}

Task<void> cross_threads(AioContext& here, AioContext& there) {
  std::thread::id mine = std::this_thread::get_id();
  std::thread::id other = co_await run_in(there, my_thread());
  CHECK(other != mine);
  CHECK(std::this_thread::get_id() == mine);
  CHECK(co_await run_in(there, add(20, 3)) == 23);
  std::thread::id same = co_await run_in(here, my_thread());
  CHECK(same == mine);
  std::string text;
  try {
    co_await run_in(there, refuse());
  } catch (const std::runtime_error& error) {
    text = error.what();
  }
  CHECK(text == "no");
  CHECK(std::this_thread::get_id() == mine);
}

TEST_CASE("A task run in another context runs in its thread, and its caller goes on in his own") {
  AioContext context("main");
  IoThread thread("other");
  CHECK(thread.thread_id() != ::gettid());
  context.run_to_completion(cross_threads(context, thread.context()));
}

TEST_CASE("What is posted is called in the context's thread") {
  AioContext context("main");
  IoThread thread("other");
  Event called;
  std::thread::id where;
  post(thread.context(), [&] {
    where = std::this_thread::get_id();
    called.set();
  });
  struct Wait {
    static Task<void> until(Event& event) { co_await event.wait(); }
  };
  context.run_to_completion(Wait::until(called));
  CHECK(where != std::this_thread::get_id());
}

TEST_CASE("A context that was told to stop before it runs stops") {
  AioContext context("test");
  context.request_stop();
  context.run();
  SUCCEED();
}

// A poll source that has something to say on every turn until it has been asked often enough.
class Countdown final : public PollSource {
 public:
  explicit Countdown(int turns) : left_(turns) {}
  bool poll() noexcept override { return left_ != 0 && --left_ != 0; }
  int left() const { return left_; }

 private:
  int left_;
};

TEST_CASE("Poll sources are asked on each turn, until they are taken away") {
  SimulatedClock clock;
  AioContext context("test", clock);
  Countdown source(5);
  context.add_poll_source(source);
  struct Sleep {
    static Task<void> once(AioContext& context) { co_await context.sleep_for(seconds(1)); }
  };
  context.run_to_completion(Sleep::once(context));
  CHECK(source.left() == 0);
  context.remove_poll_source(source);
}

Task<void> ping_pong(AioContext& there, int rounds) {
  for (int i = 0; i < rounds; ++i) std::ignore = co_await run_in(there, add(i, 1));
}

TEST_CASE("A loop that may poll learns to, and unlearns it when it may no more") {
  AioContext context("main");
  IoThread thread("other");
  const AioContext::Counters& counters = context.counters();
  context.run_to_completion(ping_pong(thread.context(), 200));
  CHECK(counters.poll_hits + counters.poll_misses == 0);
  CHECK(counters.sleeps > 0);

  context.set_poll_parameters({.max_ns = 1'000'000'000});
  for (int i = 0; i < 1000 && counters.poll_hits == 0; ++i)
    context.run_to_completion(ping_pong(thread.context(), 100));
  CHECK(counters.poll_hits > 0);
  CHECK(counters.poll_ns > 0);

  context.set_poll_parameters({});
  uint64_t polled = counters.poll_hits + counters.poll_misses;
  context.run_to_completion(ping_pong(thread.context(), 200));
  CHECK(counters.poll_hits + counters.poll_misses == polled);
}

struct Service {
  explicit Service(AioContext& context) : name(context.name()) { ++alive; }
  ~Service() { --alive; }
  std::string name;
  static inline int alive = 0;
};

TEST_CASE("A context has one of each service, which ends with it") {
  {
    AioContext context("test");
    CHECK(context.service<Service>().name == "test");
    CHECK(&context.service<Service>() == &context.service<Service>());
    CHECK(Service::alive == 1);
  }
  CHECK(Service::alive == 0);
}

}  // namespace
}  // namespace strata
