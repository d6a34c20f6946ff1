// SPDX-License-Identifier: GPL-2.0-or-later
#include <catch2/catch.hpp>

#include "block/drivers/nbd/call.h"

using strata::nbd_client::Coverage;

TEST_CASE("what comes in order is whole once all of it has come") {
  Coverage covered;
  CHECK(covered.is_whole(100, 0));
  CHECK(covered.add(100, 10));
  CHECK_FALSE(covered.is_whole(100, 30));
  CHECK(covered.add(110, 20));
  CHECK(covered.is_whole(100, 30));
  CHECK_FALSE(covered.is_whole(100, 31));
}

TEST_CASE("what comes in any order is put together") {
  Coverage covered;
  CHECK(covered.add(20, 10));
  CHECK(covered.add(0, 10));
  CHECK(covered.add(40, 10));
  CHECK_FALSE(covered.is_whole(0, 50));
  CHECK(covered.add(30, 10));
  CHECK(covered.add(10, 10));
  CHECK(covered.is_whole(0, 50));
  CHECK(covered.add(50, 1));
  CHECK(covered.is_whole(0, 51));
}

TEST_CASE("no byte may come twice") {
  Coverage covered;
  CHECK(covered.add(10, 10));
  CHECK_FALSE(covered.add(10, 10));
  CHECK_FALSE(covered.add(5, 6));
  CHECK_FALSE(covered.add(19, 1));
  CHECK(covered.add(30, 10));
  CHECK_FALSE(covered.add(15, 20));
  CHECK_FALSE(covered.add(0, 100));
  CHECK(covered.add(20, 10));
  CHECK_FALSE(covered.add(25, 1));
}

TEST_CASE("a second try begins anew") {
  Coverage covered;
  CHECK(covered.add(0, 10));
  CHECK(covered.add(20, 10));
  covered.clear();
  CHECK(covered.add(0, 10));
  CHECK(covered.is_whole(0, 10));
}
