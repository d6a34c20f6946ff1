// SPDX-License-Identifier: GPL-2.0-or-later
//
// What both kinds of rings do.
#include <catch2/catch.hpp>
#include <cstring>

#include "tests/unit/virtio/rig.h"

namespace strata::virtio {
namespace {

using test::Buffer;

constexpr uint16_t kSize = 8;
constexpr uint64_t kFirst = Rig::kGuest + Rig::kBuffers;

// One kind of ring, with both of its sides.
struct Pair {
  explicit Pair(bool is_packed, bool event_index = false)
      : packed(is_packed), split_driver(rig.split(kSize)), packed_driver(rig.packed(kSize)) {
    RingSetup setup = rig.setup(kSize);
    setup.event_index = event_index;
    setup.base = is_packed ? 0x80008000 : 0;
    ring = rig.make(is_packed, setup);
    REQUIRE(ring);
  }
  // `slot` times two is where a split chain begins.
  void add(uint16_t slot, std::vector<Buffer> chain) {
    if (packed)
      packed_driver.add(id_of(slot), chain);
    else
      split_driver.add(id_of(slot), chain);
  }
  uint16_t id_of(uint16_t slot) const { return static_cast<uint16_t>(packed ? slot : 2 * slot); }
  std::optional<test::Done> reap() { return packed ? packed_driver.reap() : split_driver.reap(); }
  std::string take_and_fail() {
    Element element;
    CHECK(ring->take(element) == Ring::Taken::broken);
    CHECK(ring->take(element) == Ring::Taken::broken);
    return ring->problem();
  }
  // A table of its own at `at`, available as one indirect descriptor.
  void add_indirect(uint64_t at, uint32_t bytes, uint16_t more_flags = 0) {
    Buffer table{Rig::kGuest + at, bytes, false};
    if (packed) {
      packed_driver.add(0, {&table, 1}, static_cast<uint16_t>(VRING_DESC_F_INDIRECT | more_flags));
      return;
    }
    split_driver.write_chain(0, {&table, 1});
    split_driver.descriptor(0).flags = static_cast<uint16_t>(VRING_DESC_F_INDIRECT | more_flags);
    split_driver.make_available(0);
  }
  void entry(uint64_t at, uint16_t index, Buffer buffer, uint16_t flags, uint16_t next) {
    auto all = static_cast<uint16_t>(flags | (buffer.writable ? VRING_DESC_F_WRITE : 0));
    if (packed)
      rig.guest.at<vring_packed_desc>(at)[index] = {buffer.address, buffer.bytes, 0, all};
    else
      rig.guest.at<vring_desc>(at)[index] = {buffer.address, buffer.bytes, all, next};
  }

  Rig rig;
  bool packed;
  test::SplitDriver split_driver;
  test::PackedDriver packed_driver;
  std::unique_ptr<Ring> ring;
};

TEST_CASE("what is made available is taken, given back and seen, many laps long") {
  Pair pair(GENERATE(false, true));
  Element element;
  uint16_t slot = 0;
  for (int lap = 0; lap < 20000; ++lap) {
    pair.add(slot, {{kFirst, 16, false}, {kFirst + 512, 1, true}});
    REQUIRE(pair.ring->has_available());
    REQUIRE(pair.ring->take(element) == Ring::Taken::element);
    REQUIRE(element.readable == 16);
    REQUIRE(element.writable == 1);
    REQUIRE(element.parts.size() == 2);
    REQUIRE(element.readable_parts == 1);
    REQUIRE(element.parts[1].iov_base == pair.rig.guest.data() + Rig::kBuffers + 512 -
                                             pair.rig.guest.data() +
                                             pair.rig.memory.regions()[0].data());
    REQUIRE_FALSE(pair.ring->has_available());
    REQUIRE(pair.ring->take(element) == Ring::Taken::none);
    pair.ring->give_back(element, 1);
    REQUIRE_FALSE(pair.reap());
    REQUIRE(pair.ring->publish());
    auto done = pair.reap();
    REQUIRE(done);
    REQUIRE(done->id == pair.id_of(slot));
    REQUIRE(done->written == 1);
    slot = static_cast<uint16_t>((slot + 1) % 4);
  }
}

TEST_CASE("elements are given back in any order, a batch at once") {
  Pair pair(GENERATE(false, true));
  std::vector<Element> elements(3);
  for (uint16_t slot = 0; slot < 3; ++slot) pair.add(slot, {{kFirst, 16, false}});
  for (Element& element : elements) REQUIRE(pair.ring->take(element) == Ring::Taken::element);
  for (int i : {2, 0, 1}) pair.ring->give_back(elements[static_cast<size_t>(i)], 0);
  CHECK_FALSE(pair.reap());
  CHECK(pair.ring->publish());
  CHECK_FALSE(pair.ring->publish());
  for (uint16_t slot : {uint16_t{2}, uint16_t{0}, uint16_t{1}}) {
    auto done = pair.reap();
    REQUIRE(done);
    CHECK(done->id == pair.id_of(slot));
  }
}

TEST_CASE("a buffer that crosses into the next region comes in two parts") {
  Pair pair(GENERATE(false, true));
  test::FakeGuest more(4096);
  pair.rig.memory.add({Rig::kGuest + (1 << 20), 4096, 0x1000, 0}, more.fd());
  pair.add(0, {{Rig::kGuest + (1 << 20) - 100, 300, true}});
  Element element;
  REQUIRE(pair.ring->take(element) == Ring::Taken::element);
  REQUIRE(element.parts.size() == 2);
  CHECK(element.parts[0].iov_len == 100);
  CHECK(element.parts[1].iov_len == 200);
  CHECK(element.writable == 300);
}

TEST_CASE("buffers outside the guest's memory break the ring") {
  bool packed = GENERATE(false, true);
  auto problem = [packed](Buffer buffer) {
    Pair pair(packed);
    pair.add(0, {{kFirst, 16, false}, buffer});
    return pair.take_and_fail();
  };
  const std::string outside = "a descriptor points outside the guest's memory";
  CHECK(problem({0, 16, true}) == outside);
  CHECK(problem({Rig::kGuest + (1 << 20) - 8, 16, true}) == outside);
  CHECK(problem({UINT64_MAX - 7, 16, true}) == outside);
  CHECK(problem({Rig::kGuest, UINT32_MAX, true}) == outside);
}

TEST_CASE("a readable descriptor after a writable one breaks the ring") {
  Pair pair(GENERATE(false, true));
  pair.add(0, {{kFirst, 16, true}, {kFirst, 16, false}});
  CHECK(pair.take_and_fail() == "a readable descriptor follows a writable one");
}

TEST_CASE("an indirect table is followed") {
  Pair pair(GENERATE(false, true));
  pair.entry(0xc000, 0, {kFirst, 16, false}, VRING_DESC_F_NEXT, 1);
  pair.entry(0xc000, 1, {kFirst + 4096, 4096, true}, VRING_DESC_F_NEXT, 2);
  pair.entry(0xc000, 2, {kFirst + 16, 1, true}, 0, 0);
  pair.add_indirect(0xc000, 48);
  Element element;
  REQUIRE(pair.ring->take(element) == Ring::Taken::element);
  CHECK(element.parts.size() == 3);
  CHECK(element.writable == 4097);
  CHECK(element.descriptors == 1);
}

TEST_CASE("indirect tables of bad size, in bad memory or within another break the ring") {
  bool packed = GENERATE(false, true);
  auto problem = [packed](uint64_t at, uint32_t bytes, uint16_t inner_flags, uint16_t flags) {
    Pair pair(packed);
    pair.entry(0xc000, 0, {kFirst, 16, false}, inner_flags, 0);
    pair.add_indirect(at, bytes, flags);
    return pair.take_and_fail();
  };
  const std::string size = "the size of an indirect table is invalid";
  CHECK(problem(0xc000, 0, 0, 0) == size);
  CHECK(problem(0xc000, 17, 0, 0) == size);
  CHECK(problem(2 << 20, 16, 0, 0) == "an indirect table lies outside the guest's memory");
  CHECK(problem(0xc000, 16, VRING_DESC_F_INDIRECT, 0) == "an indirect table within another");
  if (!packed) {
    CHECK(problem(0xc000, 16, 0, VRING_DESC_F_NEXT) == "an indirect descriptor has a successor");
  }
}

TEST_CASE("an indirect table may lie across two regions that follow one another") {
  Pair pair(GENERATE(false, true));
  test::FakeGuest more(4096);
  pair.rig.memory.add({Rig::kGuest + (1 << 20), 4096, 0x1000, 0}, more.fd());
  constexpr uint64_t kAt = (1 << 20) - 8;
  uint32_t sixteen = 16;
  uint64_t buffer = kFirst;
  std::memcpy(pair.rig.guest.at<std::byte>(kAt), &buffer, 8);
  std::memcpy(more.at<std::byte>(0), &sixteen, 4);
  pair.add_indirect(kAt, 16);
  Element element;
  REQUIRE(pair.ring->take(element) == Ring::Taken::element);
  CHECK(element.readable == 16);
}

TEST_CASE("a head that is in flight cannot be made available again") {
  Pair pair(GENERATE(false, true));
  Element element;
  pair.add(1, {{kFirst, 16, false}});
  pair.add(1, {{kFirst, 16, false}});
  REQUIRE(pair.ring->take(element) == Ring::Taken::element);
  CHECK(pair.take_and_fail().find("made available twice") != std::string::npos);
}

TEST_CASE("rings outside the guest's memory, of no size or too large, are not made") {
  bool packed = GENERATE(false, true);
  auto refused = [packed](auto change) {
    Rig rig;
    RingSetup setup = rig.setup(kSize);
    change(setup);
    return rig.make(packed, setup) == nullptr && !rig.why.empty();
  };
  CHECK(refused([](RingSetup& s) { s.size = 0; }));
  CHECK(refused([](RingSetup& s) { s.size = 32769; }));
  CHECK(refused([](RingSetup& s) { s.size = 65535; }));
  CHECK(refused([](RingSetup& s) { s.addresses.descriptors = 0; }));
  CHECK(refused([](RingSetup& s) { s.addresses.available += 1 << 20; }));
  CHECK(refused([](RingSetup& s) { s.addresses.used = UINT64_MAX - 3; }));
  CHECK(refused([](RingSetup& s) { s.addresses.descriptors += 1; }));
  CHECK(refused([](RingSetup& s) { s.addresses.used += 1; }));
  if (packed) {
    CHECK(refused([](RingSetup& s) { s.base = 8; }));
  } else {
    CHECK(refused([](RingSetup& s) { s.size = 6; }));
  }
}

TEST_CASE("without an event index the driver's flag decides about notifications") {
  Pair pair(false);
  Element element;
  *pair.rig.guest.at<uint16_t>(Rig::kAvailable) = VRING_AVAIL_F_NO_INTERRUPT;
  pair.add(0, {{kFirst, 16, false}});
  REQUIRE(pair.ring->take(element) == Ring::Taken::element);
  pair.ring->give_back(element, 0);
  CHECK_FALSE(pair.ring->publish());
  pair.ring->want_notifications(false);
  CHECK(pair.split_driver.device_flags() == VRING_USED_F_NO_NOTIFY);
  pair.ring->want_notifications(true);
  CHECK(pair.split_driver.device_flags() == 0);
}

TEST_CASE("the event index of a split ring is kept on both sides") {
  Pair pair(false, true);
  Element element;
  auto round = [&](uint16_t slot) {
    pair.add(slot, {{kFirst, 16, false}});
    REQUIRE(pair.ring->take(element) == Ring::Taken::element);
    pair.ring->give_back(element, 0);
    return pair.ring->publish();
  };
  CHECK(round(0));  // nothing is known yet: notify
  pair.split_driver.used_event() = 2;
  CHECK_FALSE(round(1));
  CHECK(round(2));
  CHECK_FALSE(round(3));
  pair.ring->want_notifications(true);
  CHECK(pair.split_driver.available_event() == 4);
}

TEST_CASE("the event index of a packed ring is kept on both sides, over the end of the ring") {
  Pair pair(true, true);
  Element element;
  auto round = [&] {
    pair.add(0, {{kFirst, 16, false}});
    REQUIRE(pair.ring->take(element) == Ring::Taken::element);
    pair.ring->give_back(element, 0);
    return pair.ring->publish();
  };
  auto& wish = pair.packed_driver.driver_event();
  wish.flags = VRING_PACKED_EVENT_FLAG_DISABLE;
  CHECK_FALSE(round());
  wish.flags = VRING_PACKED_EVENT_FLAG_ENABLE;
  CHECK(round());
  wish.flags = VRING_PACKED_EVENT_FLAG_DESC;
  wish.off_wrap = 3 | 1 << 15;
  CHECK_FALSE(round());
  CHECK(round());
  CHECK_FALSE(round());
  wish.off_wrap = 1;  // of the next lap
  for (int i = 0; i < 4; ++i) CHECK_FALSE(round());
  CHECK(round());
  pair.ring->want_notifications(true);
  CHECK(pair.packed_driver.device_event().flags == VRING_PACKED_EVENT_FLAG_DESC);
  CHECK(pair.packed_driver.device_event().off_wrap == 2);
  pair.ring->want_notifications(false);
  CHECK(pair.packed_driver.device_event().flags == VRING_PACKED_EVENT_FLAG_DISABLE);
}

TEST_CASE("loops of descriptors in a split ring are found") {
  Pair pair(false);
  auto& driver = pair.split_driver;
  Buffer buffer{kFirst, 16, false};
  driver.write_chain(0, {&buffer, 1});
  driver.descriptor(0).flags = VRING_DESC_F_NEXT;
  driver.descriptor(0).next = 0;
  driver.make_available(0);
  CHECK(pair.take_and_fail() == "a chain of descriptors is a loop");
}

TEST_CASE("a loop in an indirect table of a split ring is found") {
  Pair pair(false);
  pair.entry(0xc000, 0, {kFirst, 16, false}, VRING_DESC_F_NEXT, 1);
  pair.entry(0xc000, 1, {kFirst, 16, false}, VRING_DESC_F_NEXT, 0);
  pair.add_indirect(0xc000, 32);
  CHECK(pair.take_and_fail() == "an indirect chain is too long");
}

TEST_CASE("a packed chain that never ends is found") {
  Pair pair(true);
  std::vector<Buffer> chain(kSize, Buffer{kFirst, 16, false});
  pair.packed_driver.add(0, chain);
  pair.packed_driver.descriptor(kSize - 1).flags |= VRING_DESC_F_NEXT;
  CHECK(pair.take_and_fail() == "a chain of descriptors is a loop");
}

TEST_CASE("heads, successors and indexes outside a split ring break it") {
  auto problem = [](auto poke) {
    Pair pair(false);
    Buffer buffer{kFirst, 16, false};
    pair.split_driver.write_chain(0, {&buffer, 1});
    poke(pair.split_driver);
    return pair.take_and_fail();
  };
  CHECK(problem([](auto& d) { d.make_available(kSize); }) ==
        "a head is outside the descriptor table");
  CHECK(problem([](auto& d) {
          d.descriptor(0).flags = VRING_DESC_F_NEXT;
          d.descriptor(0).next = kSize;
          d.make_available(0);
        }) == "a descriptor's successor is outside the table");
  CHECK(problem([](auto& d) { d.set_available_index(kSize + 1); }) ==
        "the index of the available ring has jumped");
  CHECK(problem([](auto& d) { d.set_available_index(UINT16_MAX); }) ==
        "the index of the available ring has jumped");
}

}  // namespace
}  // namespace strata::virtio
