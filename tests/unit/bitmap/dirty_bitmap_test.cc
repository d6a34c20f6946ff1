// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/bitmap/dirty_bitmap.h"

#include <catch2/catch.hpp>
#include <random>
#include <string>
#include <thread>

#include "block/base/error.h"
#include "block/bitmap/dirty_bitmaps.h"

namespace strata {
namespace {

constexpr uint64_t kMiB = 1024 * 1024;

template <class Action>
std::string error_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.text();
  }
  return "";
}

TEST_CASE("a write makes every granule that it touches dirty") {
  DirtyBitmap bitmap("b", kMiB, 65536);
  bitmap.record({65535, 2});
  CHECK(bitmap.dirty_bytes() == 2 * 65536);
  CHECK(bitmap.is_dirty(0));
  CHECK(bitmap.is_dirty(131071));
  CHECK_FALSE(bitmap.is_dirty(131072));
  bitmap.record({kMiB, 65536});
  CHECK(bitmap.dirty_bytes() == 2 * 65536);
}

TEST_CASE("a disabled bitmap records nothing") {
  DirtyBitmap bitmap("b", kMiB, 65536);
  bitmap.set_enabled(false);
  bitmap.record({0, kMiB});
  CHECK(bitmap.dirty_bytes() == 0);
}

TEST_CASE("dirty areas end at the end of the disk and of what was asked for") {
  DirtyBitmap bitmap("b", kMiB + 512, 65536);
  bitmap.set({kMiB, 512});
  CHECK(*bitmap.next_dirty_area(0, UINT64_MAX) == ByteRange{kMiB, 512});
  bitmap.set({0, kMiB});
  CHECK(*bitmap.next_dirty_area(100, 200) == ByteRange{100, 100});
  CHECK(*bitmap.next_dirty_area(0, UINT64_MAX, 65536) == ByteRange{0, 65536});
  CHECK(*bitmap.next_dirty_area(0, UINT64_MAX) == ByteRange{0, kMiB + 512});
  CHECK_FALSE(bitmap.next_dirty_area(kMiB + 512, UINT64_MAX));
}

TEST_CASE("extents of a bitmap are all dirty or all clean") {
  DirtyBitmap bitmap("b", kMiB, 4096);
  bitmap.set({8192, 4096});
  auto extent = bitmap.extent({100, kMiB - 100});
  CHECK(extent.bytes == 8092);
  CHECK_FALSE(extent.dirty);
  extent = bitmap.extent({9000, 100});
  CHECK(extent.bytes == 100);
  CHECK(extent.dirty);
  CHECK(bitmap.extent({12288, kMiB - 12288}).bytes == kMiB - 12288);
}

TEST_CASE("what is serialized is what is read again") {
  std::mt19937_64 random(3);
  for (uint64_t size : {512 * 7, 512 * 64, 512 * 1000, 512 * 4097}) {
    DirtyBitmap from("a", size, 512);
    for (int i = 0; i < 20; ++i) from.set({random() % size, random() % 5000});
    std::vector<std::byte> bytes(from.serialized_bytes());
    from.serialize(0, bytes);
    DirtyBitmap to("b", size, 512);
    REQUIRE(to.deserialize(0, bytes));
    for (uint64_t at = 0; at < size; at += 512) REQUIRE(to.is_dirty(at) == from.is_dirty(at));
  }
}

TEST_CASE("bits behind the end are not taken for a bitmap") {
  DirtyBitmap bitmap("b", 512 * 7, 512);
  std::byte bytes[8] = {std::byte{0x80}};
  CHECK_FALSE(bitmap.deserialize(0, bytes));
  bytes[0] = std::byte{0x7f};
  CHECK(bitmap.deserialize(0, bytes));
  CHECK(bitmap.dirty_bytes() == 7 * 512);
}

TEST_CASE("bitmaps of different granularity merge by bytes") {
  DirtyBitmap fine("fine", kMiB, 512);
  DirtyBitmap coarse("coarse", kMiB, 65536);
  fine.set({70000, 1});
  coarse.merge(fine);
  CHECK(*coarse.next_dirty_area(0, kMiB) == ByteRange{65536, 65536});
  DirtyBitmap back("back", kMiB, 512);
  back.merge(coarse);
  CHECK(back.dirty_bytes() == 65536);
  DirtyBitmap other("other", 2 * kMiB, 512);
  CHECK(error_of([&] { other.merge(fine); }) ==
        "Bitmaps are of different sizes (destination size is 2097152, source size is 1048576) and "
        "can't be merged");
}

TEST_CASE("the state of a bitmap decides what may be done with it") {
  using Use = DirtyBitmap::Use;
  auto bitmap = std::make_shared<DirtyBitmap>("b", kMiB, 65536);
  {
    BusyBitmap busy(bitmap);
    CHECK(error_of([&] { bitmap->check(Use::read); }) ==
          "Bitmap 'b' is currently in use by another operation and cannot be used");
  }
  bitmap->check(Use::change);
  bitmap->set_read_only(true);
  bitmap->check(Use::read);
  CHECK(error_of([&] { bitmap->check(Use::change); }) ==
        "Bitmap 'b' is readonly and cannot be modified");
  auto broken = DirtyBitmap::inconsistent("x", kMiB, 65536);
  broken->check(Use::remove);
  CHECK(error_of([&] { broken->check(Use::read); }) ==
        "Bitmap 'x' is inconsistent and cannot be used");
  broken->set_enabled(true);
  broken->record({0, kMiB});
  CHECK(broken->dirty_bytes() == 0);
}

TEST_CASE("resizing a node resizes its bitmaps") {
  DirtyBitmaps bitmaps;
  auto bitmap = std::make_shared<DirtyBitmap>("b", kMiB, 512);
  bitmaps.add(bitmap);
  bitmaps.record({0, kMiB});
  bitmaps.resize(4096);
  CHECK(bitmap->dirty_bytes() == 4096);
  bitmaps.resize(64 * kMiB);
  CHECK(bitmap->dirty_bytes() == 4096);
  bitmaps.record({63 * kMiB, kMiB});
  CHECK(bitmap->dirty_bytes() == 4096 + kMiB);
}

TEST_CASE("threads record while bitmaps come and go") {
  DirtyBitmaps bitmaps;
  auto kept = std::make_shared<DirtyBitmap>("kept", kMiB, 512);
  bitmaps.add(kept);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = t; i < 2048; i += 3) bitmaps.record({i * 512, 1});
    });
  }
  for (int i = 0; i < 200; ++i) {
    auto other = std::make_shared<DirtyBitmap>("other", kMiB, 65536);
    bitmaps.add(other);
    bitmaps.remove(*other);
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(kept->dirty_bytes() == kMiB);
}

TEST_CASE("two bitmaps of a node cannot have one name") {
  DirtyBitmaps bitmaps;
  bitmaps.add(std::make_shared<DirtyBitmap>("b", kMiB, 65536));
  bitmaps.add(std::make_shared<DirtyBitmap>("", kMiB, 65536));
  bitmaps.add(std::make_shared<DirtyBitmap>("", kMiB, 65536));
  CHECK(error_of([&] { bitmaps.add(std::make_shared<DirtyBitmap>("b", kMiB, 512)); }) ==
        "Bitmap already exists: b");
  CHECK(bitmaps.find("") == nullptr);
}

}  // namespace
}  // namespace strata
