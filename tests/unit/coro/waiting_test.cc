// SPDX-License-Identifier: GPL-2.0-or-later
//
// Gate, Mutex, Semaphore, Event, RangeLock and CancelSource in one executor.
#include <catch2/catch.hpp>
#include <memory>
#include <string>

#include "block/coro/cancel.h"
#include "block/coro/event.h"
#include "block/coro/gate.h"
#include "block/coro/mutex.h"
#include "block/coro/range_lock.h"
#include "block/coro/semaphore.h"
#include "block/coro/turnstile.h"
#include "tests/unit/coro/hand_executor.h"

namespace strata {
namespace {

using test::HandExecutor;

Task<void> wait_for(Event& event, int& woken) {
  co_await event.wait();
  ++woken;
}

Task<void> pass(Turnstile& turnstile, Event& ready, int name, std::string& order) {
  Turnstile::Turn turn = turnstile.draw();
  co_await ready.wait();
  co_await turn.wait();
  order += std::to_string(name);
}

TEST_CASE("A turnstile lets pass in the order of drawing, whoever is ready first") {
  HandExecutor executor;
  Turnstile turnstile;
  Event ready[3];
  std::string order;
  for (int i = 0; i < 3; ++i) executor.start(pass(turnstile, ready[i], i, order));
  ready[2].set();
  executor.run();
  ready[1].set();
  executor.run();
  CHECK(order.empty());
  ready[0].set();
  executor.run();
  CHECK(order == "012");
}

TEST_CASE("A turn that is let go before it came holds nobody up") {
  HandExecutor executor;
  Turnstile turnstile;
  Event ready(true);
  std::string order;
  {
    Turnstile::Turn first = turnstile.draw();
    Turnstile::Turn second = turnstile.draw();
    executor.start(pass(turnstile, ready, 3, order));
    second.done();
    executor.run();
    CHECK(order.empty());
  }
  executor.run();
  CHECK(order == "3");
}

TEST_CASE("Setting an event lets every waiter go, and it stays set until reset") {
  HandExecutor executor;
  Event event;
  int woken = 0;
  executor.start(wait_for(event, woken));
  executor.start(wait_for(event, woken));
  CHECK(executor.run() == 0);
  event.set();
  CHECK(executor.run() == 2);
  CHECK(woken == 2);
  executor.start(wait_for(event, woken));
  CHECK(woken == 3);
  event.reset();
  executor.start(wait_for(event, woken));
  CHECK(woken == 3);
  event.set();
  executor.run();
  CHECK(woken == 4);
}

Task<void> locked_step(Mutex& mutex, Event& go, std::string& order, char name) {
  Mutex::Lock lock = co_await mutex.lock();
  order += name;
  co_await go.wait();
  order += name;
}

TEST_CASE("A mutex goes to its waiters in the order of their coming") {
  HandExecutor executor;
  Mutex mutex;
  Event go;
  std::string order;
  for (char name : {'a', 'b', 'c', 'd'}) executor.start(locked_step(mutex, go, order, name));
  CHECK(order == "a");
  CHECK_FALSE(mutex.try_lock());
  go.set();
  executor.run();
  CHECK(order == "aabbccdd");
  CHECK(mutex.try_lock());
}

Task<void> pass_through(Gate& gate, Event& go, std::string& order, char name) {
  Gate::Pass pass = co_await gate.enter();
  order += name;
  co_await go.wait();
}

Task<void> drain(Gate& gate, std::string& order) {
  co_await gate.shut();
  order += '|';
}

TEST_CASE("A shut gate keeps newcomers out and waits for those inside") {
  HandExecutor executor;
  Gate gate;
  Event go;
  std::string order;
  executor.start(pass_through(gate, go, order, 'a'));
  executor.start(drain(gate, order));
  CHECK(gate.is_shut());
  CHECK(gate.inside() == 1);
  executor.start(pass_through(gate, go, order, 'b'));
  CHECK(gate.has_waiters());
  CHECK_FALSE(gate.try_enter());
  executor.run();
  CHECK(order == "a");
  go.set();
  executor.run();
  CHECK(order == "a|");
  gate.open();
  CHECK(gate.inside() == 1);  // who waited is in before anyone can shut it again
  executor.run();
  CHECK(order == "a|b");
  CHECK(gate.inside() == 0);
}

TEST_CASE("A gate that was shut twice opens with the second opening") {
  HandExecutor executor;
  Gate gate;
  Event go(true);
  std::string order;
  executor.start(drain(gate, order));
  executor.start(drain(gate, order));
  CHECK(order == "||");
  executor.start(pass_through(gate, go, order, 'a'));
  gate.open();
  executor.run();
  CHECK(order == "||");
  gate.open();
  executor.run();
  CHECK(order == "||a");
}

Task<void> take_units(Semaphore& semaphore, size_t count, Event& go, std::string& order,
                      char name) {
  Semaphore::Units units = co_await semaphore.acquire(count);
  order += name;
  co_await go.wait();
}

TEST_CASE("A large taker of units is not overtaken by small ones") {
  HandExecutor executor;
  Semaphore semaphore(3);
  Event first_go;
  Event go;
  std::string order;
  executor.start(take_units(semaphore, 2, first_go, order, 'a'));
  executor.start(take_units(semaphore, 3, go, order, 'b'));
  executor.start(take_units(semaphore, 1, go, order, 'c'));
  Semaphore::Units units;
  CHECK_FALSE(semaphore.try_acquire(units));  // one is left, but somebody waits
  CHECK(order == "a");
  first_go.set();
  executor.run();
  CHECK(order == "ab");
  go.set();
  executor.run();
  CHECK(order == "abc");
  CHECK(semaphore.available() == 3);
}

Task<void> hold_range(RangeLock& lock, ByteRange range, RangeLock::Mode mode, Event& go,
                      std::string& order, char name) {
  RangeLock::Hold hold(lock, range, mode);
  co_await hold.acquire();
  order += name;
  co_await go.wait();
}

TEST_CASE("Exclusive holds of ranges exclude what overlaps them") {
  HandExecutor executor;
  RangeLock lock;
  Event go;
  std::string order;
  using Mode = RangeLock::Mode;
  executor.start(hold_range(lock, {0, 100}, Mode::exclusive, go, order, 'a'));
  executor.start(hold_range(lock, {100, 100}, Mode::exclusive, go, order, 'b'));
  executor.start(hold_range(lock, {99, 2}, Mode::exclusive, go, order, 'c'));
  executor.start(hold_range(lock, {200, 10}, Mode::shared, go, order, 'd'));
  executor.start(hold_range(lock, {50, 10}, Mode::shared, go, order, 'e'));
  CHECK(order == "abd");
  go.set();
  executor.run();
  CHECK(order.substr(0, 3) == "abd");
  CHECK(order.size() == 5);
  CHECK(lock.idle());
}

TEST_CASE("Nobody overtakes a waiter with whom he conflicts") {
  HandExecutor executor;
  RangeLock lock;
  Event first_go;
  Event go;
  std::string order;
  using Mode = RangeLock::Mode;
  executor.start(hold_range(lock, {0, 100}, Mode::shared, first_go, order, 'a'));
  executor.start(hold_range(lock, {0, 100}, Mode::exclusive, go, order, 'b'));
  executor.start(hold_range(lock, {0, 100}, Mode::shared, go, order, 'c'));
  executor.start(hold_range(lock, {500, 1}, Mode::shared, go, order, 'd'));
  CHECK(order == "ad");
  first_go.set();
  executor.run();
  CHECK(order == "adb");
  go.set();
  executor.run();
  CHECK(order == "adbc");
}

TEST_CASE("A range is tried without waiting") {
  HandExecutor executor;
  RangeLock lock;
  RangeLock::Hold shared(lock, {0, 10}, RangeLock::Mode::shared);
  CHECK(shared.try_acquire());
  RangeLock::Hold exclusive(lock, {5, 10}, RangeLock::Mode::exclusive);
  CHECK_FALSE(exclusive.try_acquire());
  shared.release();
  CHECK(exclusive.try_acquire());
  RangeLock::Hold another(lock, {0, 6}, RangeLock::Mode::shared);
  CHECK_FALSE(another.try_acquire());
  exclusive.release();
  CHECK(another.try_acquire());
}

class Listener final : public CancelSource::Subscription {
 public:
  Listener(CancelToken token, int& calls) noexcept : calls_(calls) { subscribe(token); }
  void cancelled() noexcept override { ++calls_; }

 private:
  int& calls_;
};

TEST_CASE("Cancelling tells each subscriber once, and none that has gone") {
  CancelSource source;
  int calls = 0;
  CHECK_FALSE(source.token().is_cancelled());
  Listener first(source.token(), calls);
  {
    Listener gone(source.token(), calls);
  }
  Listener second(source.token(), calls);
  Listener deaf(CancelToken(), calls);
  source.cancel();
  CHECK(calls == 2);
  CHECK(source.token().is_cancelled());
  source.cancel();
  CHECK(calls == 2);
  CHECK_FALSE(CancelToken().is_cancelled());
}

TEST_CASE("A subscriber may outlive the source it subscribed to") {
  int calls = 0;
  auto source = std::make_unique<CancelSource>();
  Listener listener(source->token(), calls);
  source.reset();
  CHECK(calls == 0);
}

}  // namespace
}  // namespace strata
