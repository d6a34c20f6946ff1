// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/coro/task.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "tests/unit/coro/hand_executor.h"

namespace strata {
namespace {

using test::HandExecutor;

static_assert(!std::is_copy_constructible_v<Task<int>>);
static_assert(std::is_nothrow_move_constructible_v<Task<int>>);
static_assert(std::is_nothrow_move_assignable_v<Task<void>>);

struct Yield : Resumption {
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> caller) noexcept {
    suspend(caller);
    resume_later();
  }
  void await_resume() const noexcept {}
};

Task<int> answer() {
  co_return 42;
}
Task<int> answer_later() {
  co_await Yield();
  co_return 43;
}
Task<void> fail_now() {
  throw std::runtime_error("now");
  co_return;
}
Task<int> fail_later() {
  co_await Yield();
  throw std::runtime_error("later");
}

template <class T>
Task<void> store(Task<T> task, T& into) {
  into = co_await std::move(task);
}

Task<void> note(bool& started) {
  started = true;
  co_return;
}

TEST_CASE("A task does nothing before it is awaited") {
  HandExecutor executor;
  bool started = false;
  {
    Task<void> task = note(started);
    CHECK_FALSE(started);
  }
  CHECK_FALSE(started);
  executor.start(note(started));
  CHECK(started);
}

TEST_CASE("A task yields its value, at once or later") {
  HandExecutor executor;
  int value = 0;
  executor.start(store(answer(), value));
  CHECK(value == 42);
  executor.start(store(answer_later(), value));
  CHECK(value == 42);
  CHECK(executor.run() == 1);
  CHECK(value == 43);
  executor.start(store(Task<int>::ready(44), value));
  CHECK(value == 44);
}

TEST_CASE("A value that can only be moved is moved out") {
  HandExecutor executor;
  std::unique_ptr<int> value;
  struct Make {
    static Task<std::unique_ptr<int>> one() { co_return std::make_unique<int>(5); }
  };
  executor.start(store(Make::one(), value));
  REQUIRE(value);
  CHECK(*value == 5);
}

template <class T>
Task<void> keep_text(Task<T> task, std::string& text) {
  try {
    co_await std::move(task);
  } catch (const std::runtime_error& error) {
    text = error.what();
  }
}

TEST_CASE("What a task throws is thrown where it is awaited") {
  HandExecutor executor;
  std::string text;
  executor.start(keep_text(fail_now(), text));
  CHECK(text == "now");
  executor.start(keep_text(fail_later(), text));
  executor.run();
  CHECK(text == "later");
}

TEST_CASE("A task that is not awaited frees what it was given") {
  HandExecutor executor;
  auto shared = std::make_shared<int>(1);
  struct Keep {
    static Task<void> it(std::shared_ptr<int> value) {
      std::ignore = value;
      co_return;
    }
  };
  {
    Task<void> task = Keep::it(shared);
    CHECK(shared.use_count() == 2);
  }
  CHECK(shared.use_count() == 1);
}

Task<void> spawn_children(std::string& order) {
  struct Child {
    static Task<void> run(std::string& order, char name) {
      order += name;
      co_await Yield();
      order += name;
    }
  };
  TaskScope scope;
  scope.spawn(Child::run(order, 'a'));
  scope.spawn(Child::run(order, 'b'));
  order += '-';
  co_await scope.join();
  order += '.';
}

TEST_CASE("A scope's tasks run beside their parent, which waits for their end") {
  HandExecutor executor;
  std::string order;
  executor.start(spawn_children(order));
  CHECK(order == "ab-");
  executor.run();
  CHECK(order == "ab-ab.");
}

Task<void> join_failures(std::string& text) {
  TaskScope scope;
  struct Child {
    static Task<void> run() { std::ignore = co_await fail_later(); }
  };
  scope.spawn(Child::run());
  scope.spawn(fail_now());
  try {
    co_await scope.join();
  } catch (const std::runtime_error& error) {
    text = error.what();
  }
  CHECK(scope.running() == 0);
}

TEST_CASE("The first failure in a scope is thrown by join, after all have ended") {
  HandExecutor executor;
  std::string text;
  executor.start(join_failures(text));
  CHECK(text.empty());
  executor.run();
  CHECK(text == "now");
}

constexpr int kMany = 1'000'000;

// The distance between the frames of the first and the latest call.
class StackMeter {
 public:
  [[gnu::noinline]] void look() {
    // Not the address of a local: the address sanitizer keeps those elsewhere.
    auto address = reinterpret_cast<intptr_t>(__builtin_frame_address(0));
    if (first_ == 0) first_ = address;
    depth_ = std::max(depth_, std::abs(first_ - address));
  }
  intptr_t depth() const { return depth_; }

 private:
  intptr_t first_ = 0;
  intptr_t depth_ = 0;
};

Task<int> metered(StackMeter& meter) {
  meter.look();
  co_return 1;
}

Task<void> await_many(StackMeter& meter, long& sum) {
  for (int i = 0; i < kMany; ++i) sum += co_await metered(meter);
}

TEST_CASE("A million ready awaits in a loop do not grow the stack") {
  HandExecutor executor;
  StackMeter meter;
  long sum = 0;
  executor.start(await_many(meter, sum));
  CHECK(sum == kMany);
  CHECK(meter.depth() < 16384);
}

// Sometimes suspended, so that both ways of going on take turns.
Task<int> metered_later(StackMeter& meter, int i) {
  if (i % 3 == 0) co_await Yield();
  meter.look();
  co_return 1;
}

Task<void> await_many_later(StackMeter& meter, long& sum) {
  for (int i = 0; i < kMany; ++i) sum += co_await metered_later(meter, i);
}

TEST_CASE("A million awaits, some of them suspended, do not grow the stack") {
  HandExecutor executor;
  StackMeter meter;
  long sum = 0;
  executor.start(await_many_later(meter, sum));
  executor.run();
  CHECK(sum == kMany);
  CHECK(meter.depth() < 16384);
}

}  // namespace
}  // namespace strata
