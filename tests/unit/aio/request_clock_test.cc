// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/request_clock.h"

#include <catch2/catch.hpp>

namespace strata {
namespace {

TimePoint real_time() {
  return std::chrono::steady_clock::now();
}

TEST_CASE("a request's time is never late, and never goes back") {
  TimePoint last{};
  for (int i = 0; i < 10000; ++i) {
    TimePoint now = RequestClock::now();
    REQUIRE(now <= real_time());
    REQUIRE(now >= last);
    last = now;
  }
}

TEST_CASE("time that has expired is not used again") {
  for (int i = 0; i < 100; ++i) {
    RequestClock::now();
    TimePoint before = real_time();
    RequestClock::expire();
    REQUIRE(RequestClock::now() >= before);
  }
}

TEST_CASE("a look at the clock serves some requests, not many") {
  RequestClock::expire();
  TimePoint first = RequestClock::now();
  TimePoint later = real_time();
  while (real_time() <= later) {
  }
  int looks = 1;
  while (RequestClock::now() == first && looks < 1000) ++looks;
  CHECK(looks > 1);
  CHECK(looks <= 32);
}

}  // namespace
}  // namespace strata
