// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/thread_pool.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <stdexcept>
#include <thread>

#include "block/coro/scope.h"

namespace strata {
namespace {

Task<void> call_things(ThreadPool& pool) {
  std::thread::id here = std::this_thread::get_id();
  std::thread::id there = co_await pool.run([] { return std::this_thread::get_id(); });
  CHECK(there != here);
  CHECK(std::this_thread::get_id() == here);
  int called = 0;
  co_await pool.run([&called] { ++called; });
  CHECK(called == 1);
  auto moved = co_await pool.run([] { return std::make_unique<int>(7); });
  CHECK(*moved == 7);
  bool thrown = false;
  try {
    co_await pool.run([]() -> int { throw std::runtime_error("no"); });
  } catch (const std::runtime_error&) {
    thrown = true;
  }
  CHECK(thrown);
}

TEST_CASE("A pool calls functions in other threads and returns what they give or throw") {
  AioContext context("test");
  context.run_to_completion(call_things(context.service<ThreadPool>()));
}

TEST_CASE("Where no thread is allowed, the context does the work") {
  AioContext context("test");
  context.set_thread_pool_limits({.min = 0, .max = 0});
  auto& pool = context.service<ThreadPool>();
  std::thread::id there = context.run_to_completion([](ThreadPool& pool) -> Task<std::thread::id> {
    co_return co_await pool.run([] { return std::this_thread::get_id(); });
  }(pool));
  CHECK(there == std::this_thread::get_id());
  CHECK(pool.threads() == 0);
}

struct Load {
  std::atomic<size_t> now{0};
  std::atomic<size_t> most{0};
  std::atomic<size_t> calls{0};
};

Task<void> load(ThreadPool& pool, Load& load) {
  co_await pool.run([&load] {
    size_t now = ++load.now;
    size_t most = load.most;
    while (now > most && !load.most.compare_exchange_weak(most, now)) {
    }
    std::this_thread::yield();
    --load.now;
    ++load.calls;
  });
}

Task<void> load_heavily(ThreadPool& pool, Load& counts, int calls) {
  TaskScope scope;
  for (int i = 0; i < calls; ++i) scope.spawn(load(pool, counts));
  co_await scope.join();
}

TEST_CASE("Never more threads than the maximum work, and all work is done") {
  AioContext context("test");
  ThreadPool& pool = context.service<ThreadPool>();
  context.set_thread_pool_limits({.min = 0, .max = 3});
  Load counts;
  context.run_to_completion(load_heavily(pool, counts, 500));
  CHECK(counts.calls == 500);
  CHECK(counts.most <= 3);
  CHECK(pool.threads() <= 3);
  CHECK(pool.threads() >= 1);
}

TEST_CASE("The minimum is there from the first piece of work on") {
  AioContext context("test");
  ThreadPool& pool = context.service<ThreadPool>();
  context.set_thread_pool_limits({.min = 5, .max = 8});
  CHECK(pool.threads() == 0);
  Load counts;
  context.run_to_completion(load_heavily(pool, counts, 1));
  CHECK(pool.threads() == 5);
}

TEST_CASE("Idle threads above the minimum end, and new ones come when they are needed") {
  AioContext context("test");
  ThreadPool& pool = context.service<ThreadPool>();
  pool.set_idle_time(std::chrono::microseconds(100));
  context.set_thread_pool_limits({.min = 2, .max = 16});
  Load counts;
  context.run_to_completion(load_heavily(pool, counts, 200));
  while (pool.threads() > 2) std::this_thread::yield();
  CHECK(pool.threads() == 2);
  context.set_thread_pool_limits({.min = 0, .max = 16});
  while (pool.threads() > 0) std::this_thread::yield();
  context.run_to_completion(load_heavily(pool, counts, 200));
  CHECK(counts.calls == 400);
}

TEST_CASE("A lower maximum holds for the work that comes after") {
  AioContext context("test");
  ThreadPool& pool = context.service<ThreadPool>();
  Load counts;
  context.run_to_completion(load_heavily(pool, counts, 300));
  context.set_thread_pool_limits({.min = 0, .max = 1});
  context.run_to_completion(load_heavily(pool, counts, 300));
  CHECK(counts.calls == 600);
  while (pool.threads() > 1) context.run_to_completion(load_heavily(pool, counts, 10));
  CHECK(pool.threads() == 1);
}

}  // namespace
}  // namespace strata
