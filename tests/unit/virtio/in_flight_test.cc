// SPDX-License-Identifier: GPL-2.0-or-later
//
// A back end that dies at any instant leaves enough behind for its successor.
#include <catch2/catch.hpp>
#include <cstring>
#include <vector>

#include "block/virtio/in_flight.h"
#include "tests/unit/virtio/rig.h"

namespace strata::virtio {
namespace {

using test::Buffer;

constexpr uint16_t kSize = 8;
constexpr uint64_t kFirst = Rig::kGuest + Rig::kBuffers;

struct Crash {
  explicit Crash(bool is_packed)
      : packed(is_packed),
        split_driver(rig.split(kSize)),
        packed_driver(rig.packed(kSize)),
        area(in_flight_bytes(is_packed, kSize)) {
    start();
  }
  // A new back end on what the old one left.
  bool start() {
    RingSetup setup = rig.setup(kSize);
    setup.base = packed ? 0x80008000 : 0;
    setup.in_flight = reinterpret_cast<std::byte*>(area.data());
    setup.in_flight_size = kSize;
    ring = rig.make(packed, setup);
    return ring != nullptr;
  }
  // The length of the data tells requests apart.
  void add(uint16_t slot, uint32_t mark) {
    std::vector<Buffer> chain{{kFirst, 16, false}, {kFirst + 4096, mark, true}};
    if (packed)
      packed_driver.add(slot, chain);
    else
      split_driver.add(static_cast<uint16_t>(2 * slot), chain);
  }
  Element take() {
    Element element;
    REQUIRE(ring->take(element) == Ring::Taken::element);
    return element;
  }
  std::vector<uint64_t> take_all() {
    std::vector<uint64_t> marks;
    Element element;
    while (ring->take(element) == Ring::Taken::element) {
      marks.push_back(element.writable);
      ring->give_back(element, 1);
    }
    CHECK(ring->problem().empty());
    ring->publish();
    return marks;
  }
  int reap_all() {
    int count = 0;
    while (packed ? packed_driver.reap() : split_driver.reap()) ++count;
    return count;
  }

  Rig rig;
  bool packed;
  test::SplitDriver split_driver;
  test::PackedDriver packed_driver;
  std::vector<uint8_t> area;
  std::unique_ptr<Ring> ring;
};

using Marks = std::vector<uint64_t>;

TEST_CASE("what was taken and not given back is taken again, in the old order") {
  Crash crash(GENERATE(false, true));
  for (uint16_t i = 0; i < 4; ++i) crash.add(i, 100 + i);
  for (int i = 0; i < 3; ++i) crash.take();
  REQUIRE(crash.start());
  CHECK(crash.take_all() == Marks{100, 101, 102, 103});
  CHECK(crash.reap_all() == 4);
  REQUIRE(crash.start());
  CHECK(crash.take_all().empty());
}

TEST_CASE("what was published is not done twice, what was only given back is") {
  Crash crash(GENERATE(false, true));
  for (uint16_t i = 0; i < 4; ++i) crash.add(i, 100 + i);
  Element a = crash.take();
  Element b = crash.take();
  Element c = crash.take();
  crash.ring->give_back(c, 1);
  crash.ring->give_back(a, 1);
  crash.ring->publish();
  crash.ring->give_back(b, 1);
  REQUIRE(crash.start());
  CHECK(crash.take_all() == Marks{101, 103});
  CHECK(crash.reap_all() == 4);
}

TEST_CASE("a death between publishing and noting it is made up for") {
  Crash crash(GENERATE(false, true));
  for (uint16_t i = 0; i < 4; ++i) crash.add(i, 100 + i);
  Element a = crash.take();
  Element b = crash.take();
  crash.take();
  crash.ring->give_back(b, 1);
  crash.ring->give_back(a, 1);
  std::vector<uint8_t> before = crash.area;
  crash.ring->publish();
  // As it is when the marks have not been taken back yet.
  if (crash.packed) {
    auto* now = reinterpret_cast<QueueRegionPacked*>(crash.area.data());
    auto* old = reinterpret_cast<const QueueRegionPacked*>(before.data());
    now->old_free_head = old->old_free_head;
    now->old_used_idx = old->old_used_idx;
    now->old_used_wrap_counter = old->old_used_wrap_counter;
    for (uint16_t i = 0; i < kSize; ++i) now->desc[i].inflight = old->desc[i].inflight;
  } else {
    crash.area = before;
  }
  REQUIRE(crash.start());
  CHECK(crash.take_all() == Marks{102, 103});
  CHECK(crash.reap_all() == 4);
}

TEST_CASE("a death before a packed batch became visible undoes it") {
  Crash crash(true);
  crash.add(0, 100);
  crash.add(1, 101);
  Element a = crash.take();
  Element b = crash.take();
  vring_packed_desc first = crash.packed_driver.descriptor(0);
  std::vector<uint8_t> before = crash.area;
  crash.ring->give_back(b, 1);
  crash.ring->give_back(a, 1);
  crash.ring->publish();
  // The flags of the batch's first entry were not written yet, nor what comes after them.
  crash.packed_driver.descriptor(0).flags = first.flags;
  auto* now = reinterpret_cast<QueueRegionPacked*>(crash.area.data());
  auto* old = reinterpret_cast<const QueueRegionPacked*>(before.data());
  now->old_free_head = old->old_free_head;
  now->old_used_idx = old->old_used_idx;
  now->old_used_wrap_counter = old->old_used_wrap_counter;
  for (uint16_t i = 0; i < kSize; ++i) now->desc[i].inflight = old->desc[i].inflight;
  REQUIRE(crash.start());
  CHECK(crash.take_all() == Marks{100, 101});
  CHECK(crash.reap_all() == 2);
}

TEST_CASE("deaths at random instants lose nothing and repeat nothing that was seen") {
  bool packed = GENERATE(false, true);
  Crash crash(packed);
  uint32_t seed = 12345;
  auto random = [&seed](uint32_t below) {
    seed = seed * 1664525 + 1013904223;
    return (seed >> 8) % below;
  };
  std::vector<bool> busy(4, false);
  std::vector<std::pair<uint16_t, Element>> taken;
  uint32_t added = 0;
  uint32_t reaped = 0;
  for (int step = 0; step < 20000; ++step) {
    switch (random(8)) {
      case 0:
      case 1:
      case 2:
        for (uint16_t slot = 0; slot < 4; ++slot) {
          if (busy[slot]) continue;
          busy[slot] = true;
          crash.add(slot, 200u + slot);
          ++added;
          break;
        }
        break;
      case 3:
      case 4: {
        Element element;
        if (crash.ring->take(element) == Ring::Taken::element)
          taken.emplace_back(static_cast<uint16_t>(element.writable - 200), element);
        break;
      }
      case 5:
        if (!taken.empty()) {
          size_t which = random(static_cast<uint32_t>(taken.size()));
          crash.ring->give_back(taken[which].second, 1);
          taken.erase(taken.begin() + static_cast<long>(which));
        }
        break;
      case 6:
        crash.ring->publish();
        break;
      default:
        if (random(4) != 0) break;
        taken.clear();
        REQUIRE(crash.start());
    }
    while (auto done = packed ? crash.packed_driver.reap() : crash.split_driver.reap()) {
      auto slot = static_cast<uint16_t>(packed ? done->id : done->id / 2);
      REQUIRE(busy[slot]);
      busy[slot] = false;
      ++reaped;
    }
    REQUIRE(crash.ring->problem().empty());
  }
  REQUIRE(crash.start());
  crash.take_all();
  reaped += static_cast<uint32_t>(crash.reap_all());
  CHECK(reaped == added);
}

TEST_CASE("an area of another ring, or of no sense, is refused or harmless") {
  bool packed = GENERATE(false, true);
  Crash crash(packed);
  for (uint16_t i = 0; i < 3; ++i) crash.add(i, 100 + i);
  crash.take();
  crash.take();
  const std::vector<uint8_t> sound = crash.area;
  for (size_t at = 0; at < sound.size(); ++at) {
    for (uint8_t value : {uint8_t{0}, uint8_t{1}, uint8_t{0x7f}, uint8_t{0xff}}) {
      crash.area = sound;
      crash.area[at] = value;
      if (!crash.start()) {
        REQUIRE_FALSE(crash.rig.why.empty());
        continue;
      }
      Element element;
      int taken = 0;
      while (crash.ring->take(element) == Ring::Taken::element) {
        REQUIRE(++taken <= kSize);
        crash.ring->give_back(element, 0);
      }
      // Not published: the ring stays as it is for the next value.
    }
  }
}

TEST_CASE("an area that is too small is refused") {
  bool packed = GENERATE(false, true);
  Rig rig;
  std::vector<uint8_t> area(in_flight_bytes(packed, kSize));
  RingSetup setup = rig.setup(kSize);
  setup.base = packed ? 0x80008000 : 0;
  setup.in_flight = reinterpret_cast<std::byte*>(area.data());
  setup.in_flight_size = kSize - 1;
  CHECK_FALSE(rig.make(packed, setup));
  CHECK(rig.why == "the in-flight area is too small");
}

}  // namespace
}  // namespace strata::virtio
