// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/event_signal.h"

#include <fcntl.h>
#include <sys/eventfd.h>

#include <catch2/catch.hpp>

namespace strata {
namespace {

uint64_t take_count(int fd) {
  eventfd_t count = 0;
  return ::eventfd_read(fd, &count) == 0 ? count : 0;
}

UniqueFd copy(const UniqueFd& fd) {
  return UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
}

UniqueFd make_event() {
  return UniqueFd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
}

TEST_CASE("an event is signalled once for each call") {
  UniqueFd event = make_event();
  EventSignal signal;
  signal.signal();  // nobody hears it
  signal.set(copy(event));
  CHECK(signal);
  CHECK(take_count(event.get()) == 0);
  for (int i = 0; i < 1000; ++i) signal.signal();
  CHECK(take_count(event.get()) == 1000);
}

TEST_CASE("a signal goes to the descriptor that was set last") {
  UniqueFd first = make_event();
  UniqueFd second = make_event();
  EventSignal signal;
  signal.set(copy(first));
  signal.set(copy(second));
  signal.signal();
  CHECK(take_count(first.get()) == 0);
  CHECK(take_count(second.get()) == 1);
  signal.set({});
  signal.signal();
  CHECK_FALSE(signal);
  CHECK(take_count(second.get()) == 0);
  signal.set(copy(first));
  signal.signal();
  CHECK(take_count(first.get()) == 1);
  CHECK(signal.take());
  signal.signal();
  CHECK(take_count(first.get()) == 0);
}

TEST_CASE("a full event that blocks holds nobody up") {
  UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  EventSignal signal;
  signal.set(copy(event));
  REQUIRE(::eventfd_write(event.get(), UINT64_MAX - 1) == 0);
  for (int i = 0; i < 100; ++i) signal.signal();
  CHECK(take_count(event.get()) >= UINT64_MAX - 1);
}

}  // namespace
}  // namespace strata
