// SPDX-License-Identifier: GPL-2.0-or-later
//
// A device whose process has died, and answers of the kernel that make no sense.
#include <sys/mman.h>

#include "tests/unit/export_vduse/guest.h"

namespace strata::test {
namespace {

using Catch::Matchers::Contains;
using vduse::InFlightFile;
using vduse::InFlightShape;

constexpr uint16_t kQueueSize = 256;

// What is left of a process that died in the midst of its work: the device with its driver, and the
// file. It is made by one that goes in good order, and a ring that then takes what the driver makes
// available and never gives it back.
struct Dead {
  explicit Dead(uint64_t features) : packed((features & bit(VIRTIO_F_RING_PACKED)) != 0) {
    VduseFixture process(kernel);
    process.add();
    guest = std::make_unique<Guest>(kernel, process.context);
    if (!process.run(guest->begin(features))) throw Error("the device refuses its driver");
    if (process.run(guest->write(0, 'o')) != 0) throw Error("a write failed");
    process.remove();
    process.run(process.registry.remove_all(process.loop));
    guest = std::make_unique<Guest>(std::move(*guest));
  }

  InFlightShape shape() const {
    return {.features = kernel.devices.at("vdev").made().features, .queue_size = kQueueSize};
  }
  // Takes `count` elements; of the last `finished` the answers are visible, but were not called
  // out.
  void take(unsigned count, unsigned finished) {
    InFlightFile file = InFlightFile::open(InFlightFile::path_for("vdev"), shape(), {});
    virtio::GuestMemory memory;
    memory.add({Guest::kRings, Guest::kRingBytes, Guest::kRings, 0}, guest->memory->fd());
    memory.add({Guest::kBuffers, Guest::kBufferBytes, Guest::kBuffers, Guest::kRingBytes},
               guest->memory->fd());
    virtio::RingSetup setup;
    setup.memory = &memory;
    setup.addresses = {Guest::kRings, Guest::kRings + 0x1000, Guest::kRings + 0x2000};
    setup.size = Guest::kSize;
    setup.in_flight = file.area(0);
    setup.in_flight_size = kQueueSize;
    std::string why;
    auto ring = virtio::Ring::make(packed, setup, why);
    if (ring == nullptr) throw Error("{}", why);
    std::vector<virtio::Element> taken(count);
    for (virtio::Element& element : taken) {
      if (ring->take(element) != virtio::Ring::Taken::element) throw Error("nothing to take");
    }
    for (unsigned i = count - finished; i < count; ++i) ring->give_back(taken[i], 1);
    ring->publish();
  }

  Temporary temporary;
  FakeKernel kernel;
  bool packed;
  std::unique_ptr<Guest> guest;
};

std::string stored(VduseFixture& process, uint64_t sector) {
  auto& data = Fixture::data_of(process.node());
  return {reinterpret_cast<char*>(data.data() + sector * 512), 512};
}

}  // namespace

TEST_CASE("a successor does what its predecessor took and did not answer, once") {
  for (uint64_t features : {kSplit, kPacked}) {
    Dead dead(features);
    Guest& guest = *dead.guest;
    for (uint16_t slot = 0; slot < 4; ++slot) {
      guest.fill(static_cast<char>('a' + slot), 512, slot);
      guest.post(VIRTIO_BLK_T_OUT, 10u + slot, 512, false, slot);
    }
    // Of four, two are under way, and one is answered; one nobody has looked at.
    dead.take(3, 1);
    unsigned called = guest.queue().interrupts;

    VduseFixture process(dead.kernel);
    process.add();
    Guest now(dead.kernel, process.context);
    for (int slot : {0, 1, 3}) {
      while (stored(process, 10u + static_cast<unsigned>(slot))[0] == 0) process.run(now.settle());
    }
    CHECK(stored(process, 10) == std::string(512, 'a'));
    CHECK(stored(process, 11) == std::string(512, 'b'));
    // Its answer was visible, so that it is not done again.
    CHECK(stored(process, 12) == std::string(512, '\0'));
    CHECK(stored(process, 13) == std::string(512, 'd'));
    CHECK(process.users() == 1);
    CHECK(guest.queue().interrupts > called);
    for (int i = 0; i < 4; ++i) CHECK(guest.reap().has_value());
    CHECK_FALSE(guest.reap().has_value());
  }
}

TEST_CASE("a call that the predecessor owed is made") {
  Dead dead(kSplit);
  dead.guest->post(VIRTIO_BLK_T_OUT, 10, 512, false);
  dead.take(1, 1);
  unsigned called = dead.guest->queue().interrupts;
  VduseFixture process(dead.kernel);
  process.add();
  CHECK(dead.guest->queue().interrupts > called);
}

TEST_CASE("what the kernel asked the predecessor is answered by its successor") {
  Temporary temporary;
  FakeKernel kernel;
  vduse_dev_request request{};
  {
    VduseFixture process(kernel);
    process.add();
    kernel.devices.at("vdev").on_bus = true;
    process.remove();
    process.run(process.registry.remove_all(process.loop));
    request.type = VDUSE_SET_STATUS;
    request.request_id = 77;
    kernel.devices.at("vdev").unanswered.push_back(request);
  }
  VduseFixture process(kernel);
  process.add();
  struct Wait {
    static Task<vduse_dev_response> answer(AioContext& context, int end) {
      vduse_dev_response response{};
      FdWatch watch(context, end);
      while (::read(end, &response, sizeof response) != sizeof response)
        std::ignore = co_await watch.readable();
      co_return response;
    }
  };
  auto response = process.run(Wait::answer(process.context, kernel.devices.at("vdev").end.get()));
  CHECK(response.request_id == 77);
  CHECK(response.result == VDUSE_REQ_RESULT_OK);
}

TEST_CASE("a device in use is not gone on with when it is not known what was under way") {
  Dead dead(kSplit);
  std::string path = InFlightFile::path_for("vdev");
  SECTION("the file is gone") {
    std::filesystem::remove(path);
    VduseFixture process(dead.kernel);
    CHECK_THAT(process.error_of(process.options()),
               Contains("'vdev' is in use, and what was under way is not known: Failed to open"));
  }
  SECTION("the options are others") {
    VduseFixture process(dead.kernel);
    auto options = process.options();
    options.writable = false;
    CHECK_THAT(process.error_of(options), Contains("belongs to a device with other options"));
  }
  SECTION("the area makes no sense") {
    {
      InFlightFile file = InFlightFile::open(path, dead.shape(), {});
      std::memset(file.area(0), 0x55, 64);
    }
    VduseFixture process(dead.kernel);
    CHECK(process.error_of(process.options()) == "a queue that was at work cannot go on");
    CHECK(process.registry.all().empty());
  }
  CHECK(dead.kernel.devices.contains("vdev"));
  CHECK_FALSE(dead.kernel.devices.at("vdev").is_connected());
  // When its driver has let it go, it can begin anew.
  dead.kernel.devices.at("vdev").reset();
  std::filesystem::remove(path);
  VduseFixture process(dead.kernel);
  process.add();
  Guest guest(dead.kernel, process.context);
  REQUIRE(process.run(guest.begin()));
  CHECK(process.run(guest.write(0, 'n')) == VIRTIO_BLK_S_OK);
}

TEST_CASE("rings that cannot be are refused when the driver is ready") {
  Temporary temporary;
  FakeKernel kernel;
  VduseFixture process(kernel);
  process.add();
  Guest guest(kernel, process.context);
  auto accepts = [&](auto change) {
    FakeDevice& device = guest.device();
    device.on_bus = true;
    process.run(guest.status(0));
    guest.show_memory();
    device.accepted = kSplit;
    if (!process.run(guest.status(kFeaturesOk))) return false;
    guest.prepare(0, true);
    change(device.queues[0].info, device);
    return process.run(guest.status(kDriverOk));
  };
  using Info = vduse_vq_info;
  CHECK_FALSE(accepts([](Info& info, auto&) { info.num = 0; }));
  CHECK_FALSE(accepts([](Info& info, auto&) { info.num = 512; }));
  CHECK_FALSE(accepts([](Info& info, auto&) { info.num = 65536 + 16; }));
  CHECK_FALSE(accepts([](Info& info, auto&) { info.num = 24; }));
  CHECK_FALSE(accepts([](Info& info, auto&) { info.desc_addr = 0; }));
  CHECK_FALSE(accepts([](Info& info, auto&) { info.desc_addr += 1; }));
  CHECK_FALSE(accepts([](Info& info, auto&) { info.driver_addr = UINT64_MAX - 1; }));
  CHECK_FALSE(
      accepts([](Info& info, auto&) { info.device_addr = Guest::kRings + Guest::kRingBytes - 8; }));
  CHECK_FALSE(
      accepts([&](Info&, FakeDevice& device) { device.regions[0].entry.perm = VDUSE_ACCESS_RO; }));
  CHECK_FALSE(accepts([&](Info&, FakeDevice& device) { device.regions.clear(); }));
  CHECK(process.users() == 0);
  CHECK(accepts([](Info&, auto&) {}));
  CHECK(process.run(guest.write(0, 'a')) == VIRTIO_BLK_S_OK);
}

TEST_CASE("memory that makes no sense breaks the queue, and nothing else") {
  Temporary temporary;
  FakeKernel kernel;
  VduseFixture process(kernel);
  process.add();
  Guest guest(kernel, process.context);
  int pipe[2];
  REQUIRE(::pipe2(pipe, O_CLOEXEC) == 0);
  UniqueFd reader(pipe[0]), writer(pipe[1]);
  // A request whose buffers lie in the second region.
  auto is_served = [&](auto change) {
    if (!process.run(guest.begin())) throw Error("the device refuses its driver");
    change(guest.device().regions[1]);
    guest.post(VIRTIO_BLK_T_IN, 0, 512, true);
    guest.kick();
    process.run(guest.settle());
    return guest.has_used();
  };
  auto entry = [](auto change) { return [change](FakeRegion& region) { change(region.entry); }; };
  using Entry = vduse_iotlb_entry;
  CHECK(is_served([](FakeRegion&) {}));
  CHECK_FALSE(is_served([&](FakeRegion& region) { region.fd = reader.get(); }));
  CHECK_FALSE(is_served([&](FakeRegion& region) { region.fd = 1 << 20; }));
  CHECK_FALSE(is_served(entry([](Entry& e) { e.offset = 1 << 30; })));
  CHECK_FALSE(is_served(entry([](Entry& e) { e.offset = UINT64_MAX - 100; })));
  CHECK_FALSE(is_served(entry([](Entry& e) { e.last = UINT64_MAX; })));
  CHECK_FALSE(is_served(entry([](Entry& e) { e.start = 0, e.last = UINT64_MAX; })));
  CHECK_FALSE(is_served(entry([](Entry& e) { e.last = Guest::kRings + 10; })));
  CHECK_FALSE(is_served(entry([](Entry& e) { e.perm = VDUSE_ACCESS_WO; })));
  CHECK_FALSE(is_served(entry([](Entry& e) { e.perm = 0; })));
  CHECK(is_served([](FakeRegion&) {}));
}

TEST_CASE("a file that is shortened under the device breaks the queue") {
  Temporary temporary;
  FakeKernel kernel;
  VduseFixture process(kernel);
  process.add();
  Guest guest(kernel, process.context);
  REQUIRE(process.run(guest.begin()));
  REQUIRE(process.run(guest.write(0, 'a')) == VIRTIO_BLK_S_OK);
  guest.post(VIRTIO_BLK_T_IN, 0, 512, true, 5);
  REQUIRE(::ftruncate(guest.memory->fd(), Guest::kRingBytes + 4 * Guest::kSlotBytes) == 0);
  guest.kick();
  process.run(guest.settle());
  REQUIRE(::ftruncate(guest.memory->fd(), Guest::kRingBytes + Guest::kBufferBytes) == 0);
  REQUIRE(process.run(guest.begin()));
  CHECK(process.run(guest.write(0, 'b')) == VIRTIO_BLK_S_OK);
}

TEST_CASE("messages of no sense are refused, and the next one is served") {
  Temporary temporary;
  FakeKernel kernel;
  VduseFixture process(kernel);
  process.add();
  Guest guest(kernel, process.context);
  REQUIRE(process.run(guest.begin()));
  vduse_dev_request request{};
  for (uint32_t type : {3u, 99u, UINT32_MAX}) {
    request.type = type;
    CHECK(process.run(guest.ask(request)).result == VDUSE_REQ_RESULT_FAILED);
  }
  request.type = VDUSE_GET_VQ_STATE;
  request.vq_state.index = UINT32_MAX;
  CHECK(process.run(guest.ask(request)).result == VDUSE_REQ_RESULT_FAILED);
  CHECK(process.run(guest.write(0, 'a')) == VIRTIO_BLK_S_OK);
}

TEST_CASE("a kernel that gives the device up leaves an export that can be removed") {
  Temporary temporary;
  FakeKernel kernel;
  VduseFixture process(kernel);
  process.add();
  Guest guest(kernel, process.context);
  REQUIRE(process.run(guest.begin()));
  SECTION("the device is gone") {
    kernel.devices.at("vdev").end.reset();
  }
  SECTION("messages are too short") {
    std::ignore = ::write(kernel.devices.at("vdev").end.get(), "short", 5);
  }
  while (process.users() != 0) process.run(guest.settle());
  process.remove();
}

}  // namespace strata::test
