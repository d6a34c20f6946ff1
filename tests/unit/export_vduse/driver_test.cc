// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a driver can do with the device, from its being ready to its end.
#include <thread>

#include "tests/unit/export_vduse/guest.h"

namespace strata::test {
namespace {

struct Rig {
  explicit Rig(uint16_t queues = 1, AioContext* iothread = nullptr) : process(kernel) {
    process.iothread = iothread;
    auto options = process.options();
    options.get_if<qapi::BlockExportOptionsVduseBlk>()->num_queues = queues;
    options.get_if<qapi::BlockExportOptionsVduseBlk>()->serial = "a serial number";
    if (iothread != nullptr) options.iothread.emplace(std::string("thread"));
    process.add(options);
  }
  bool begin(uint64_t features = kSplit, size_t ready = SIZE_MAX) {
    return process.run(guest.begin(features, ready));
  }
  std::string stored(uint64_t sector, size_t bytes = 512) {
    auto& data = Fixture::data_of(process.node());
    return {reinterpret_cast<char*>(data.data() + sector * 512), bytes};
  }

  Temporary temporary;
  FakeKernel kernel;
  VduseFixture process;
  Guest guest{kernel, process.context};
};

struct Thread {
  Thread() : thread([this] { context.run(); }) {}
  ~Thread() {
    context.request_stop();
    thread.join();
  }
  AioContext context{"iothread"};
  std::thread thread;
};

}  // namespace

TEST_CASE("a driver reads what it wrote, by either kind of ring") {
  Rig rig;
  for (uint64_t features : {kSplit, kPacked, kSplit | bit(VIRTIO_RING_F_EVENT_IDX)}) {
    REQUIRE(rig.begin(features));
    for (int lap = 0; lap < 100; ++lap) {
      char letter = static_cast<char>('a' + lap % 26);
      uint64_t sector = static_cast<uint64_t>(lap) * 8;
      REQUIRE(rig.process.run(rig.guest.write(sector, letter, 4096)) == VIRTIO_BLK_S_OK);
      REQUIRE(rig.stored(sector, 4096) == std::string(4096, letter));
      REQUIRE(rig.process.run(rig.guest.read(sector, 4096)) == std::string(4096, letter));
    }
  }
  CHECK(rig.guest.queue().interrupts > 0);
}

TEST_CASE("a driver's other requests reach the node") {
  Rig rig;
  REQUIRE(rig.begin());
  auto& calls = rig.process.behaviour.calls;
  REQUIRE(rig.process.run(rig.guest.write(0, 'x')) == VIRTIO_BLK_S_OK);
  CHECK(rig.process.run(rig.guest.request(VIRTIO_BLK_T_FLUSH, 0, 0, false)) == VIRTIO_BLK_S_OK);
  CHECK(calls.back() == "flush 0+0");
  virtio_blk_discard_write_zeroes range{8, 16, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP};
  std::memcpy(rig.guest.data(), &range, sizeof range);
  CHECK(rig.process.run(rig.guest.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, sizeof range, false)) ==
        VIRTIO_BLK_S_OK);
  CHECK(calls.back() == "unmap 4096+8192");
  range.flags = 0;
  std::memcpy(rig.guest.data(), &range, sizeof range);
  CHECK(rig.process.run(rig.guest.request(VIRTIO_BLK_T_DISCARD, 0, sizeof range, false)) ==
        VIRTIO_BLK_S_OK);
  CHECK(calls.back() == "discard 4096+8192");
  CHECK(rig.process.run(rig.guest.request(VIRTIO_BLK_T_GET_ID, 0, 20, true)) == VIRTIO_BLK_S_OK);
  CHECK(std::string(reinterpret_cast<char*>(rig.guest.data())) == "a serial number");
}

TEST_CASE("errors of the node and of the driver are the request's") {
  Rig rig;
  REQUIRE(rig.begin());
  rig.process.behaviour.fail_next = EIO;
  CHECK(rig.process.run(rig.guest.write(0, 'x')) == VIRTIO_BLK_S_IOERR);
  CHECK(rig.process.run(rig.guest.write(2048, 'x')) == VIRTIO_BLK_S_IOERR);
  CHECK(rig.process.run(rig.guest.request(99, 0, 512, true)) == VIRTIO_BLK_S_UNSUPP);
  CHECK(rig.process.run(rig.guest.write(0, 'x')) == VIRTIO_BLK_S_OK);
}

TEST_CASE("without FLUSH a write is on the medium when it is answered") {
  Rig rig;
  REQUIRE(rig.begin(kSplit & ~bit(VIRTIO_BLK_F_FLUSH)));
  rig.process.behaviour.calls.clear();
  CHECK(rig.process.run(rig.guest.write(0, 'x')) == VIRTIO_BLK_S_OK);
  CHECK(rig.process.behaviour.calls.back() == "flush 0+0");
}

TEST_CASE("features that were not offered, or of the old kind, are refused") {
  Rig rig;
  CHECK_FALSE(rig.begin(kSplit | bit(VIRTIO_BLK_F_MQ)));
  CHECK(rig.guest.device().status == 0);
  CHECK_FALSE(rig.begin(kSplit & ~bit(VIRTIO_F_VERSION_1)));
  CHECK(rig.process.users() == 0);
  CHECK(rig.begin());
  CHECK(rig.process.users() == 1);
}

TEST_CASE("a driver that skips the features is refused") {
  Rig rig;
  rig.guest.show_memory();
  rig.guest.prepare(0, true);
  CHECK_FALSE(rig.process.run(rig.guest.status(VIRTIO_CONFIG_S_DRIVER_OK)));
  CHECK(rig.process.users() == 0);
}

TEST_CASE("memory is asked for when it is first used, and once") {
  Rig rig;
  REQUIRE(rig.begin());
  unsigned for_rings = rig.guest.device().lookups;
  CHECK(for_rings == 1);
  for (int i = 0; i < 10; ++i) REQUIRE(rig.process.run(rig.guest.write(0, 'x')) == VIRTIO_BLK_S_OK);
  CHECK(rig.guest.device().lookups == 2);
}

TEST_CASE("memory that may only be read is not written") {
  Rig rig;
  REQUIRE(rig.begin());
  rig.guest.show_memory(VDUSE_ACCESS_RO);
  rig.guest.post(VIRTIO_BLK_T_IN, 0, 512, true);
  rig.guest.fill('x', 512);
  rig.guest.kick();
  rig.process.run(rig.guest.settle());
  CHECK_FALSE(rig.guest.has_used());
  CHECK(rig.guest.data()[0] == std::byte{'x'});
  // The driver resets the device, and all is well.
  REQUIRE(rig.begin());
  CHECK(rig.process.run(rig.guest.write(0, 'y')) == VIRTIO_BLK_S_OK);
}

TEST_CASE("memory that has moved is asked for anew") {
  Rig rig;
  for (uint64_t features : {kSplit, kPacked}) {
    REQUIRE(rig.begin(features));
    REQUIRE(rig.process.run(rig.guest.write(0, 'a')) == VIRTIO_BLK_S_OK);
    auto moved = std::make_unique<FakeGuest>(rig.guest.memory->size());
    std::memcpy(moved->data(), rig.guest.memory->data(), moved->size());
    // The driver's view of its rings stays: what it writes is carried over by hand.
    std::unique_ptr<FakeGuest> old = std::exchange(rig.guest.memory, std::move(moved));
    rig.guest.show_memory();
    REQUIRE(rig.process.run(rig.guest.update_memory()));
    rig.guest.post(VIRTIO_BLK_T_OUT, 8, 512, false, 1);
    rig.guest.fill('b', 512, 1);
    std::memcpy(rig.guest.memory->data(), old->data(), Guest::kRingBytes);
    std::memset(old->data() + Guest::kRingBytes, 0xee, Guest::kBufferBytes);
    rig.guest.kick();
    while (rig.guest.status_of(1) == 0xff) rig.process.run(rig.guest.settle());
    CHECK(rig.guest.status_of(1) == VIRTIO_BLK_S_OK);
    CHECK(rig.stored(8) == std::string(512, 'b'));
    rig.guest.memory = std::move(old);
  }
}

TEST_CASE("memory stays until requests that use it have ended") {
  Rig rig;
  REQUIRE(rig.begin());
  rig.process.behaviour.yields = true;
  for (uint16_t slot = 0; slot < 5; ++slot) {
    rig.guest.fill(static_cast<char>('a' + slot), 512, slot);
    rig.guest.post(VIRTIO_BLK_T_OUT, slot, 512, false, slot);
  }
  rig.guest.kick();
  REQUIRE(rig.process.run(rig.guest.update_memory()));
  for (uint16_t slot = 0; slot < 5; ++slot)
    CHECK(rig.stored(slot) == std::string(512, static_cast<char>('a' + slot)));
  for (int i = 0; i < 5; ++i) CHECK(rig.guest.reap().has_value());
  CHECK(rig.process.run(rig.guest.write(9, 'z')) == VIRTIO_BLK_S_OK);
}

TEST_CASE("a queue whose ring is gone for a while goes on when it is back") {
  Rig rig;
  REQUIRE(rig.begin());
  REQUIRE(rig.process.run(rig.guest.write(0, 'a')) == VIRTIO_BLK_S_OK);
  auto regions = std::exchange(rig.guest.device().regions, {});
  CHECK(rig.process.run(rig.guest.update_memory()));
  rig.guest.kick();
  rig.guest.device().regions = regions;
  CHECK(rig.process.run(rig.guest.update_memory()));
  CHECK(rig.process.run(rig.guest.write(1, 'b')) == VIRTIO_BLK_S_OK);
}

TEST_CASE("a reset ends what was begun, and the next driver begins anew") {
  Rig rig(2);
  for (uint64_t features : {kSplit, kPacked, kSplit}) {
    REQUIRE(rig.begin(features));
    for (uint32_t index : {0, 1})
      CHECK(rig.process.run(rig.guest.write(index, 'a', 512, index)) == VIRTIO_BLK_S_OK);
    REQUIRE(rig.process.run(rig.guest.status(0)));
    CHECK(rig.process.users() == 0);
    rig.guest.post(VIRTIO_BLK_T_OUT, 7, 512, false);
    rig.guest.kick();
    rig.process.run(rig.guest.settle());
    CHECK_FALSE(rig.guest.has_used());
  }
}

TEST_CASE("the driver hears of a new size") {
  Rig rig;
  Backend user(rig.process.layer, "user");
  user.attach(rig.process.loop, rig.process.layer.find_node("disk"), kReadWrite);
  rig.process.run(user.truncate(2 << 20));
  CHECK(rig.guest.device().blk_config().capacity == 2048);
  REQUIRE(rig.begin());  // lets the news arrive
  CHECK(rig.guest.device().blk_config().capacity == 4096);
  CHECK(rig.guest.device().config_interrupts == 0);
  rig.process.run(user.truncate(3 << 20));
  CHECK(rig.process.run(rig.guest.write(6143, 'x')) == VIRTIO_BLK_S_OK);
  CHECK(rig.guest.device().blk_config().capacity == 6144);
  CHECK(rig.guest.device().config_interrupts == 1);
  rig.process.run(user.close(rig.process.loop));
}

TEST_CASE("a queue that is ready late begins when it is kicked") {
  Rig rig(2);
  REQUIRE(rig.begin(kSplit, 1));
  CHECK(rig.process.run(rig.guest.write(0, 'a')) == VIRTIO_BLK_S_OK);
  rig.guest.queue(1).info.ready = 1;
  CHECK(rig.process.run(rig.guest.write(1, 'b', 512, 1)) == VIRTIO_BLK_S_OK);
  CHECK(rig.process.run(rig.guest.write(2, 'c', 512, 1)) == VIRTIO_BLK_S_OK);
  REQUIRE(rig.begin());
  CHECK(rig.process.run(rig.guest.write(3, 'd', 512, 1)) == VIRTIO_BLK_S_OK);
}

TEST_CASE("the state of a queue is told, and it goes on") {
  Rig rig;
  auto state = [&](uint32_t index) {
    vduse_dev_request request{};
    request.type = VDUSE_GET_VQ_STATE;
    request.vq_state.index = index;
    return rig.process.run(rig.guest.ask(request));
  };
  REQUIRE(rig.begin());
  for (int i = 0; i < 19; ++i) rig.process.run(rig.guest.write(0, 'a'));
  vduse_dev_response told = state(0);
  CHECK(told.result == VDUSE_REQ_RESULT_OK);
  CHECK(told.vq_state.split.avail_index == 19);
  CHECK(rig.process.run(rig.guest.write(0, 'b')) == VIRTIO_BLK_S_OK);
  CHECK(state(1).result == VDUSE_REQ_RESULT_FAILED);

  REQUIRE(rig.begin(kPacked));
  for (int i = 0; i < 7; ++i) rig.process.run(rig.guest.write(0, 'a'));
  told = state(0);
  CHECK(told.vq_state.packed.last_avail_idx == 7 * 3 % Guest::kSize);
  CHECK(told.vq_state.packed.last_avail_counter == 0);
  CHECK(told.vq_state.packed.last_used_idx == 7 * 3 % Guest::kSize);
  CHECK(told.vq_state.packed.last_used_counter == 0);
  CHECK(rig.process.run(rig.guest.write(0, 'b')) == VIRTIO_BLK_S_OK);
}

TEST_CASE("a ring that comes from elsewhere goes on where it was") {
  Rig rig;
  rig.guest.device().on_bus = true;
  for (uint16_t base : {5, 65535}) {
    REQUIRE(rig.process.run(rig.guest.status(0)));
    rig.guest.show_memory();
    rig.guest.device().accepted = kSplit;
    REQUIRE(rig.process.run(rig.guest.status(kFeaturesOk)));
    rig.guest.prepare(0, true);
    auto* rings = reinterpret_cast<uint16_t*>(rig.guest.memory->data());
    rings[0x1000 / 2 + 1] = base;  // available
    rings[0x2000 / 2 + 1] = base;  // used
    rig.guest.queue().info.split.avail_index = base;
    REQUIRE(rig.process.run(rig.guest.status(kDriverOk)));
    rig.guest.post(VIRTIO_BLK_T_OUT, 0, 512, false);
    rig.guest.kick();
    while (rig.guest.status_of() == 0xff) rig.process.run(rig.guest.settle());
    CHECK(rings[0x2000 / 2 + 1] == static_cast<uint16_t>(base + 1));
  }
}

TEST_CASE("a call that the kernel was not ready for is made again") {
  Rig rig;
  rig.kernel.status_delay = 50;
  rig.guest.device().on_bus = true;
  rig.guest.show_memory();
  rig.guest.device().accepted = kSplit;
  REQUIRE(rig.process.run(rig.guest.status(kFeaturesOk)));
  rig.guest.prepare(0, true);
  rig.guest.post(VIRTIO_BLK_T_OUT, 0, 512, false);
  REQUIRE(rig.process.run(rig.guest.status(kDriverOk)));
  rig.process.run(rig.guest.next());
  CHECK(rig.guest.queue().refused_interrupts > 0);
  CHECK(rig.guest.status_of() == VIRTIO_BLK_S_OK);
}

TEST_CASE("queues work in their iothread") {
  Thread thread;
  Rig rig(2, &thread.context);
  for (uint64_t features : {kSplit, kPacked}) {
    REQUIRE(rig.begin(features));
    for (uint32_t index : {0, 1}) {
      for (int i = 0; i < 20; ++i)
        REQUIRE(rig.process.run(rig.guest.write(index, 'a', 512, index)) == VIRTIO_BLK_S_OK);
    }
    REQUIRE(rig.process.run(rig.guest.update_memory()));
    CHECK(rig.process.run(rig.guest.read(1, 512, 1)) == std::string(512, 'a'));
  }
  rig.process.remove();
  rig.process.run(rig.process.registry.remove_all(rig.process.loop));
}

}  // namespace strata::test
