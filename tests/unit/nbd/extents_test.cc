// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd/extents.h"

#include <catch2/catch.hpp>

#include <array>

#include "tests/unit/nbd/bytes.h"

using namespace strata::nbd;
using namespace strata::nbd::test;

TEST_CASE("neighbours with equal flags are one extent") {
  std::array<std::byte, 64> buffer;
  ExtentList list(buffer, ReplyMode::structured, 0x4000, false);
  CHECK(list.add({.length = 0x1000, .flags = 3}));
  CHECK(list.add({.length = 0x1000, .flags = 3}));
  CHECK(list.add({.length = 0x1000, .flags = 0}));
  CHECK(!list.add({.length = 0x1000, .flags = 3}));
  CHECK(list.count() == 3);
  CHECK(list.covered() == 0x4000);
  CHECK(to_hex(list.bytes()) == plain("00002000 00000003 00001000 00000000 00001000 00000003"));
}

TEST_CASE("extended extents are 64-bit pairs") {
  std::array<std::byte, 64> buffer;
  ExtentList list(buffer, ReplyMode::extended, 1ull << 40, false);
  CHECK(list.add({.length = 1ull << 33, .flags = 3}));
  CHECK(!list.add({.length = 1ull << 41, .flags = 1ull << 32}));
  CHECK(to_hex(list.bytes()) ==
        plain("0000000200000000 0000000000000003 000000fe00000000 0000000100000000"));
}

TEST_CASE("the last extent is cut to the request") {
  std::array<std::byte, 64> buffer;
  ExtentList list(buffer, ReplyMode::structured, 0x1800, false);
  CHECK(list.add({.length = 0x1000, .flags = 0}));
  CHECK(!list.add({.length = 0x1000, .flags = 0}));
  CHECK(!list.add({.length = 0x1000, .flags = 1}));
  CHECK(to_hex(list.bytes()) == plain("00001800 00000000"));
}

TEST_CASE("REQ_ONE keeps one extent but lets it grow") {
  std::array<std::byte, 64> buffer;
  ExtentList list(buffer, ReplyMode::structured, 0x8000, true);
  CHECK(list.add({.length = 0x1000, .flags = 1}));
  CHECK(list.add({.length = 0x1000, .flags = 1}));
  CHECK(!list.add({.length = 0x1000, .flags = 0}));
  CHECK(to_hex(list.bytes()) == plain("00002000 00000001"));
}

TEST_CASE("what does not fit the buffer is dropped") {
  std::array<std::byte, 23> buffer;
  ExtentList list(buffer, ReplyMode::structured, 0x8000, false);
  CHECK(list.add({.length = 0x1000, .flags = 0}));
  CHECK(list.add({.length = 0x1000, .flags = 1}));
  CHECK(!list.add({.length = 0x1000, .flags = 0}));
  CHECK(list.count() == 2);
  CHECK(list.covered() == 0x2000);
}

TEST_CASE("a client reads back what a server wrote") {
  auto compact = hex("00000001 00002000 00000003 00001000 00000000");
  auto chunk = parse_block_status(compact, ReplyMode::structured);
  REQUIRE(chunk);
  CHECK(chunk->id() == 1);
  REQUIRE(chunk->count() == 2);
  CHECK(chunk->extent(0) == Extent{.length = 0x2000, .flags = 3});
  CHECK(chunk->extent(1) == Extent{.length = 0x1000, .flags = 0});

  auto extended = hex("00000001 00000001 0000000200000000 0000000000000003");
  chunk = parse_block_status(extended, ReplyMode::extended);
  REQUIRE(chunk);
  REQUIRE(chunk->count() == 1);
  CHECK(chunk->extent(0) == Extent{.length = 1ull << 33, .flags = 3});
}

TEST_CASE("block status with no, partial or empty extents is refused") {
  CHECK(!parse_block_status(hex("0000"), ReplyMode::structured));
  CHECK(!parse_block_status(hex("00000001"), ReplyMode::structured));
  CHECK(!parse_block_status(hex("00000001 00001000"), ReplyMode::structured));
  CHECK(!parse_block_status(hex("00000001 00000000 00000000"), ReplyMode::structured));
  CHECK(!parse_block_status(hex("00000001 00000002 0000000200000000 0000000000000003"),
                            ReplyMode::extended));
}
