// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/l2_cache.h"

#include <catch2/catch.hpp>
#include <optional>

#include "block/aio/aio_context.h"
#include "block/coro/scope.h"

namespace strata::qcow2 {
namespace {

constexpr size_t kSliceBytes = 512;
constexpr size_t kSliceEntries = kSliceBytes / 8;

std::vector<std::byte> slice_of_entries(uint64_t first, uint64_t step) {
  std::vector<std::byte> bytes(kSliceBytes);
  for (size_t i = 0; i < kSliceEntries; ++i) store_be<uint64_t>(bytes, i * 8, first + i * step);
  return bytes;
}

struct Fixture {
  explicit Fixture(uint64_t slices, uint64_t compact_bytes = 0) {
    cache.configure(Geometry(16, 4, false), kSliceBytes, slices, compact_bytes);
  }
  // Its turn has come at once.
  static bool at_once(L2Cache::Waiter& waiter) {
    auto turn = waiter.turn();
    return turn.await_ready() && turn.await_resume();
  }
  L2Cache::Pin load(uint64_t slice, uint64_t first, uint64_t step) {
    L2Cache::Waiter waiter(cache, SliceIndex(slice));
    REQUIRE(at_once(waiter));
    if (waiter.must_fill()) waiter.filled(slice_of_entries(first, step));
    return waiter.take();
  }
  std::optional<uint64_t> read(uint64_t slice, unsigned index) {
    L2Entry entry;
    if (!cache.try_read(SliceIndex(slice), index, {&entry, 1})) return std::nullopt;
    return entry.raw;
  }

  L2Cache cache;
};

Task<void> wait_for(L2Cache& cache, uint64_t slice, std::vector<uint64_t>& order) {
  L2Cache::Waiter waiter(cache, SliceIndex(slice));
  while (!co_await waiter.turn()) co_return;
  order.push_back(slice);
  if (waiter.must_fill()) waiter.filled(slice_of_entries(slice, 0));
}

}  // namespace

TEST_CASE("what was filled is read without a pin") {
  Fixture fixture(2);
  (void)fixture.load(7, 1000, 1);
  CHECK(fixture.read(7, 0) == 1000);
  CHECK(fixture.read(7, 63) == 1063);
  CHECK_FALSE(fixture.read(8, 0));
}

TEST_CASE("a pinned slice stays, and the other makes room") {
  Fixture fixture(2);
  L2Cache::Pin pin = fixture.load(1, 100, 1);
  (void)fixture.load(2, 200, 1);
  (void)fixture.load(3, 300, 1);
  CHECK(fixture.read(1, 0) == 100);
  CHECK_FALSE(fixture.read(2, 0));
  CHECK(fixture.read(3, 0) == 300);
}

TEST_CASE("the slice unused for longest makes room") {
  Fixture fixture(2);
  (void)fixture.load(1, 100, 1);
  (void)fixture.load(2, 200, 1);
  (void)fixture.read(1, 0);
  (void)fixture.load(3, 300, 1);
  CHECK(fixture.read(1, 0));
  CHECK_FALSE(fixture.read(2, 0));
}

TEST_CASE("who wants a slice that somebody fills waits for that") {
  Fixture fixture(2);
  L2Cache::Waiter filler(fixture.cache, SliceIndex(5));
  REQUIRE(Fixture::at_once(filler));
  REQUIRE(filler.must_fill());
  L2Cache::Waiter second(fixture.cache, SliceIndex(5));
  CHECK_FALSE(Fixture::at_once(second));
  CHECK_FALSE(fixture.read(5, 0));
  filler.filled(slice_of_entries(50, 0));
  CHECK(Fixture::at_once(second));
  CHECK_FALSE(second.must_fill());
}

TEST_CASE("whoever waits next fills what could not be filled") {
  Fixture fixture(2);
  std::optional<L2Cache::Waiter> filler(std::in_place, fixture.cache, SliceIndex(5));
  REQUIRE(Fixture::at_once(*filler));
  L2Cache::Waiter second(fixture.cache, SliceIndex(5));
  filler.reset();
  REQUIRE(Fixture::at_once(second));
  CHECK(second.must_fill());
}

TEST_CASE("places go to those who wait in the order of their coming") {
  AioContext context("test");
  Fixture fixture(1);
  std::vector<uint64_t> order;
  struct Run {
    static Task<void> all(Fixture& fixture, std::vector<uint64_t>& order) {
      std::optional<L2Cache::Pin> pin(fixture.load(1, 0, 0));
      TaskScope scope;
      for (uint64_t slice : {2, 3, 4, 3, 5}) scope.spawn(wait_for(fixture.cache, slice, order));
      CHECK(order.empty());
      pin.reset();
      co_await scope.join();
    }
  };
  context.run_to_completion(Run::all(fixture, order));
  REQUIRE(order.size() == 5);
  CHECK(order[0] == 2);
  CHECK(order[1] == 3);
  CHECK(order.back() == 5);
}

TEST_CASE("one of those who wait is told that dirty slices are in the way") {
  Fixture fixture(1);
  L2Cache::Pin pin = fixture.load(1, 0, 0);
  L2Cache::Waiter waiter(fixture.cache, SliceIndex(2));
  CHECK_FALSE(waiter.turn().await_ready());
  pin.store(3, L2Entry{77, 0});
  pin = L2Cache::Pin();
  auto turn = waiter.turn();
  REQUIRE(turn.await_ready());
  CHECK_FALSE(turn.await_resume());
  {
    L2Cache::DirtySlices dirty = fixture.cache.take_dirty();
    REQUIRE(dirty.pieces.size() == 1);
    CHECK(load_be<uint64_t>(dirty.pieces[0].bytes, 24) == 77);
  }
  CHECK(Fixture::at_once(waiter));
}

TEST_CASE("slices that left are told from a few runs") {
  Fixture fixture(1, 8192);
  uint64_t cluster = 65536;
  (void)fixture.load(1, 10 * cluster | kCopiedFlag, cluster);
  (void)fixture.load(2, 0, 0);
  (void)fixture.load(3, 12345, 4711);  // not in runs
  (void)fixture.load(4, 0, 0);
  CHECK(fixture.read(1, 5) == (15 * cluster | kCopiedFlag));
  CHECK(fixture.read(2, 9) == 0);
  CHECK_FALSE(fixture.read(3, 0));
  L2Cache::Pin pin = fixture.load(1, 1, 1);  // not filled again
  CHECK(pin.load(63).raw == (73 * cluster | kCopiedFlag));
  pin.store(63, L2Entry{0, 0});
  CHECK(fixture.read(1, 63) == 0);
  CHECK(fixture.read(1, 62) == (72 * cluster | kCopiedFlag));
  (void)fixture.cache.take_dirty();
}

TEST_CASE("unused slices are forgotten, used and pinned ones are not") {
  Fixture fixture(4);
  (void)fixture.load(1, 100, 1);
  (void)fixture.load(2, 200, 1);
  L2Cache::Pin pin = fixture.load(3, 300, 1);
  fixture.cache.forget_unused();
  CHECK(fixture.read(1, 0));
  fixture.cache.forget_unused();
  CHECK(fixture.read(1, 0));
  CHECK_FALSE(fixture.read(2, 0));
  CHECK(fixture.read(3, 0));
}

}  // namespace strata::qcow2
