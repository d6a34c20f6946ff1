// SPDX-License-Identifier: GPL-2.0-or-later
//
// What coroutines of several threads share. To be run under ThreadSanitizer, too.
#include <catch2/catch.hpp>
#include <memory>
#include <vector>

#include "block/aio/iothread.h"
#include "block/aio/run_in.h"
#include "block/coro/event.h"
#include "block/coro/gate.h"
#include "block/coro/mutex.h"
#include "block/coro/range_lock.h"
#include "block/coro/semaphore.h"

namespace strata {
namespace {

constexpr int kThreads = 3;
constexpr int kRounds = 2000;

// Runs `body(worker number)` in three threads at once, several coroutines in each.
template <class Shared>
void in_threads(Shared& shared, Task<void> (*body)(Shared&, int)) {
  AioContext main("main");
  std::vector<std::unique_ptr<IoThread>> threads;
  for (int i = 0; i < kThreads; ++i) threads.push_back(std::make_unique<IoThread>("worker"));
  struct Run {
    static Task<void> several(Shared& shared, Task<void> (*body)(Shared&, int), int first) {
      TaskScope scope;
      for (int i = 0; i < 4; ++i) scope.spawn(body(shared, first + i));
      co_await scope.join();
    }
    static Task<void> there(IoThread& thread, Shared& shared, Task<void> (*body)(Shared&, int),
                            int first) {
      co_await run_in(thread.context(), several(shared, body, first));
    }
    static Task<void> all(std::vector<std::unique_ptr<IoThread>>& threads, Shared& shared,
                          Task<void> (*body)(Shared&, int)) {
      TaskScope scope;
      for (int i = 0; i < kThreads; ++i)
        scope.spawn(there(*threads[static_cast<size_t>(i)], shared, body, i * 4));
      co_await scope.join();
    }
  };
  main.run_to_completion(Run::all(threads, shared, body));
}

struct Counter {
  Mutex mutex;
  long value = 0;
};

Task<void> count(Counter& counter, int) {
  for (int i = 0; i < kRounds; ++i) {
    Mutex::Lock lock = co_await counter.mutex.lock();
    long seen = counter.value;
    if (i % 64 == 0) co_await AioContext::current()->yield();
    counter.value = seen + 1;
  }
}

TEST_CASE("A mutex protects what it is to protect across threads") {
  Counter counter;
  in_threads(counter, count);
  CHECK(counter.value == kThreads * 4 * kRounds);
}

struct Drained {
  Gate gate;
  std::atomic<int> inside{0};
  std::atomic<bool> empty{false};
  std::atomic<int> violations{0};
};

// The first worker shuts and opens the gate, the others go in and out.
Task<void> enter_and_drain(Drained& drained, int worker) {
  for (int i = 0; i < kRounds; ++i) {
    if (worker == 0) {
      co_await drained.gate.shut();
      drained.empty = true;
      if (drained.inside != 0) ++drained.violations;
      co_await AioContext::current()->yield();
      if (drained.inside != 0) ++drained.violations;
      drained.empty = false;
      drained.gate.open();
      co_await AioContext::current()->yield();
    } else {
      Gate::Pass pass = co_await drained.gate.enter();
      ++drained.inside;
      if (drained.empty) ++drained.violations;
      if (i % 8 == 0) co_await AioContext::current()->yield();
      --drained.inside;
    }
  }
}

TEST_CASE("Nobody is inside a gate that has been drained, in any thread") {
  Drained drained;
  in_threads(drained, enter_and_drain);
  CHECK(drained.violations == 0);
  CHECK(drained.gate.inside() == 0);
}

struct Units {
  Semaphore semaphore{5};
  std::atomic<int> taken{0};
  std::atomic<int> most{0};
};

Task<void> take_and_give(Units& units, int worker) {
  for (int i = 0; i < kRounds; ++i) {
    size_t count = static_cast<size_t>(1 + (worker + i) % 5);
    Semaphore::Units held = co_await units.semaphore.acquire(count);
    int taken = units.taken += static_cast<int>(count);
    int most = units.most;
    while (taken > most && !units.most.compare_exchange_weak(most, taken)) {
    }
    if (i % 16 == 0) co_await AioContext::current()->yield();
    units.taken -= static_cast<int>(count);
  }
}

TEST_CASE("Never more units are out than a semaphore has, in any thread") {
  Units units;
  in_threads(units, take_and_give);
  CHECK(units.most <= 5);
  CHECK(units.semaphore.available() == 5);
}

struct Cells {
  static constexpr uint64_t kCells = 16;
  RangeLock lock;
  long values[kCells] = {};  // written under an exclusive hold only
  std::atomic<int> readers[kCells] = {};
  std::atomic<int> violations{0};
};

Task<void> use_ranges(Cells& cells, int worker) {
  for (int i = 0; i < kRounds; ++i) {
    uint64_t first = static_cast<uint64_t>(worker * 7 + i * 5) % Cells::kCells;
    uint64_t end = std::min<uint64_t>(Cells::kCells, first + 1 + static_cast<uint64_t>(i % 3));
    bool exclusive = i % 4 == 0;
    RangeLock::Hold hold(cells.lock, {first, end - first},
                         exclusive ? RangeLock::Mode::exclusive : RangeLock::Mode::shared);
    co_await hold.acquire();
    for (uint64_t c = first; c < end; ++c) {
      if (exclusive) {
        ++cells.values[c];
        if (cells.readers[c] != 0) ++cells.violations;
      } else {
        ++cells.readers[c];
      }
    }
    if (i % 16 == 0) co_await AioContext::current()->yield();
    for (uint64_t c = first; c < end && !exclusive; ++c) --cells.readers[c];
  }
}

TEST_CASE("Exclusive holders of a range are alone in it, in any thread") {
  Cells cells;
  in_threads(cells, use_ranges);
  CHECK(cells.violations == 0);
  CHECK(cells.lock.idle());
}

struct PingPong {
  std::unique_ptr<Event[]> events = std::make_unique<Event[]>(12 * 500);
};

// A ring of workers, each waking the next.
Task<void> pass_on(PingPong& game, int worker) {
  for (int round = 0; round < 500; ++round) {
    if (worker != 0)
      co_await game.events[static_cast<size_t>(round * 12 + worker - 1)].wait();
    else if (round != 0)
      co_await game.events[static_cast<size_t>((round - 1) * 12 + 11)].wait();
    game.events[static_cast<size_t>(round * 12 + worker)].set();
  }
}

TEST_CASE("No wake-up from another thread is lost") {
  PingPong game;
  in_threads(game, pass_on);
  CHECK(game.events[12 * 500 - 1].is_set());
}

}  // namespace
}  // namespace strata
