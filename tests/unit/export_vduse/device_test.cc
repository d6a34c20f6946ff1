// SPDX-License-Identifier: GPL-2.0-or-later
//
// Making, keeping and giving up a device.
#include <sys/stat.h>

#include "tests/unit/export_vduse/guest.h"

namespace strata::test {
namespace {

using Catch::Matchers::Contains;

qapi::BlockExportOptionsVduseBlk& vduse(qapi::BlockExportOptions& options) {
  return *options.get_if<qapi::BlockExportOptionsVduseBlk>();
}

}  // namespace

TEST_CASE("a device is made with what its driver is to know") {
  Temporary temporary;
  FakeKernel kernel;
  VduseFixture process(kernel);
  auto options = process.options();
  options.writable = false;
  vduse(options).num_queues = 2;
  vduse(options).queue_size = 64;
  vduse(options).logical_block_size = 4096;
  process.add(options);

  const FakeDevice& device = kernel.devices.at("vdev");
  CHECK(device.made().device_id == VIRTIO_ID_BLOCK);
  CHECK(device.made().vq_align == 4096);
  uint64_t wanted = bit(VIRTIO_F_VERSION_1) | bit(VIRTIO_F_ACCESS_PLATFORM) |
                    bit(VIRTIO_F_RING_PACKED) | bit(VIRTIO_RING_F_INDIRECT_DESC) |
                    bit(VIRTIO_RING_F_EVENT_IDX) | bit(VIRTIO_BLK_F_SEG_MAX) |
                    bit(VIRTIO_BLK_F_BLK_SIZE) | bit(VIRTIO_BLK_F_FLUSH) |
                    bit(VIRTIO_BLK_F_TOPOLOGY) | bit(VIRTIO_BLK_F_DISCARD) |
                    bit(VIRTIO_BLK_F_WRITE_ZEROES) | bit(VIRTIO_BLK_F_MQ) | bit(VIRTIO_BLK_F_RO);
  CHECK(device.made().features == wanted);
  CHECK(device.config.size() == 60);
  virtio_blk_config config = device.blk_config();
  CHECK(config.capacity == 2048);
  CHECK(config.size_max == 0);
  CHECK(config.seg_max == 62);
  CHECK(config.blk_size == 4096);
  CHECK(config.num_queues == 2);
  CHECK(config.max_discard_sectors == 32768);
  CHECK(config.discard_sector_alignment == 8);
  REQUIRE(device.queues.size() == 2);
  CHECK(device.queues[0].max_size == 64);
  CHECK(device.queues[1].max_size == 64);
  CHECK(process.users() == 0);
}

TEST_CASE("a writable device with one queue says neither RO nor MQ") {
  Temporary temporary;
  FakeKernel kernel;
  VduseFixture process(kernel);
  process.add();
  CHECK((kernel.devices.at("vdev").made().features &
         (bit(VIRTIO_BLK_F_MQ) | bit(VIRTIO_BLK_F_RO))) == 0);
  CHECK(kernel.devices.at("vdev").queues[0].max_size == 256);
}

TEST_CASE("a kernel without vduse is named") {
  Temporary temporary;
  FakeKernel kernel;
  VduseFixture process(kernel);
  kernel.open_error = ENOENT;
  CHECK(process.error_of(process.options()) ==
        "failed to create vduse device: the kernel has no vduse, or its module is not loaded: "
        "Failed to open /dev/vduse/control: No such file or directory");
  kernel.open_error = EACCES;
  CHECK(process.error_of(process.options()) ==
        "failed to create vduse device: Failed to open /dev/vduse/control: Permission denied");
  CHECK(std::filesystem::is_empty(temporary.path()));
}

TEST_CASE("options that cannot be are refused with QEMU's texts") {
  Temporary temporary;
  FakeKernel kernel;
  VduseFixture process(kernel);
  auto refused = [&](auto change) {
    auto options = process.options();
    change(options);
    return process.error_of(options);
  };
  CHECK(refused([](auto& o) { vduse(o).num_queues = 0; }) == "num-queues must be greater than 0");
  for (uint16_t size : {0, 1, 3, 1000, 2048, 65535})
    CHECK(refused([&](auto& o) { vduse(o).queue_size = size; }) == "queue-size is invalid");
  CHECK(refused([](auto& o) { vduse(o).logical_block_size = 3; }) ==
        "Property exp.logical-block-size doesn't take value 3 (minimum: 512, maximum: 2097152)");
  CHECK(refused([](auto& o) { vduse(o).logical_block_size = 1536; }) ==
        "Property exp.logical-block-size doesn't take value '1536', it's not a power of 2");
  for (std::string name : {"", ".", "..", "control", "a/b", "../x"})
    CHECK_THAT(refused([&](auto& o) { vduse(o).name = name; }),
               Contains("failed to create vduse device: '" + name + "' cannot be its name"));
  CHECK_THAT(refused([](auto& o) { vduse(o).name = std::string(256, 'n'); }),
             Contains("cannot be its name"));
  CHECK(kernel.devices.empty());
}

TEST_CASE("a set-up that fails half-way leaves no device behind") {
  Temporary temporary;
  FakeKernel kernel;
  VduseFixture process(kernel);
  kernel.refused = {VDUSE_VQ_SETUP};
  CHECK(process.error_of(process.options()) ==
        "failed to create vduse device: cannot set up queue 0: Invalid argument");
  CHECK(kernel.devices.empty());
  kernel.refused.clear();
  REQUIRE(::mkdir(vduse::InFlightFile::path_for("vdev").c_str(), 0700) == 0);
  CHECK_THAT(process.error_of(process.options()), Contains("strata-vduse-vdev"));
  CHECK(kernel.devices.empty());
  CHECK(process.registry.all().empty());
}

TEST_CASE("a removed export takes its device and its file away") {
  Temporary temporary;
  FakeKernel kernel;
  VduseFixture process(kernel);
  process.add();
  CHECK_FALSE(std::filesystem::is_empty(temporary.path()));
  process.remove();
  CHECK(kernel.devices.empty());
  CHECK(std::filesystem::is_empty(temporary.path()));
}

TEST_CASE("an export in use is only removed by force, and its device waits for a successor") {
  Temporary temporary;
  FakeKernel kernel;
  VduseFixture process(kernel);
  process.add();
  Guest guest(kernel, process.context);
  REQUIRE(process.run(guest.begin()));
  CHECK(process.users() == 1);
  auto safe = process.registry.remove(process.loop, "exp", qapi::BlockExportRemoveMode::safe);
  CHECK_THROWS_WITH(process.run(std::move(safe)), "export 'exp' still in use");
  process.remove();
  process.run(process.registry.remove_all(process.loop));
  CHECK(kernel.devices.contains("vdev"));
  CHECK_FALSE(kernel.devices.at("vdev").is_connected());
  CHECK_FALSE(std::filesystem::is_empty(temporary.path()));

  process.add();
  CHECK(process.users() == 1);
  CHECK(process.run(guest.write(4, 'w')) == VIRTIO_BLK_S_OK);
  CHECK(process.run(guest.read(4)) == std::string(512, 'w'));
}

TEST_CASE("a device that nobody serves or uses is made anew") {
  Temporary temporary;
  FakeKernel kernel;
  VduseFixture process(kernel);
  kernel.devices["vdev"].queues.resize(7);
  process.add();
  CHECK(kernel.devices.at("vdev").queues.size() == 1);
}

TEST_CASE("a device that another process serves is left alone") {
  Temporary temporary;
  FakeKernel kernel;
  VduseFixture process(kernel);
  process.add();
  auto options = process.options();
  options.id = "second";
  CHECK(process.error_of(options) ==
        "failed to create vduse device: another process serves 'vdev'");
  CHECK(kernel.devices.contains("vdev"));
  CHECK_FALSE(std::filesystem::is_empty(temporary.path()));
}

TEST_CASE("a device on the bus with other queues is refused") {
  Temporary temporary;
  FakeKernel kernel;
  VduseFixture process(kernel);
  auto options = process.options();
  vduse(options).num_queues = 2;
  process.add(options);
  kernel.devices.at("vdev").on_bus = true;
  process.remove();
  for (uint16_t queues : {1, 3}) {
    vduse(options).num_queues = queues;
    CHECK(process.error_of(options) ==
          fmt::format("failed to create vduse device: 'vdev' is in use, and has not {} queues",
                      queues));
  }
  vduse(options).num_queues = 2;
  process.add(options);
}

TEST_CASE("the in-flight file is no way to another file") {
  Temporary temporary;
  std::string path = vduse::InFlightFile::path_for("vdev");
  vduse::InFlightShape shape;
  std::string victim = temporary.path() + "/victim";
  {
    vduse::InFlightFile::make(victim, shape);
  }
  REQUIRE(::symlink(victim.c_str(), path.c_str()) == 0);
  CHECK_THROWS_WITH(vduse::InFlightFile::open(path, shape, {}), Contains("Too many levels"));
  REQUIRE(::unlink(path.c_str()) == 0);
  REQUIRE(::link(victim.c_str(), path.c_str()) == 0);
  CHECK_THROWS_WITH(vduse::InFlightFile::open(path, shape, {}), path + " is not a file of ours");
  auto made = vduse::InFlightFile::make(path, shape);
  made.area(0)[0] = std::byte{1};
  CHECK(*vduse::InFlightFile::open(victim, shape, {}).area(0) == std::byte{0});
  CHECK(*vduse::InFlightFile::open(path, shape, {}).area(0) == std::byte{1});
  struct stat status;
  REQUIRE(::stat(path.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
}

TEST_CASE("an in-flight file of another device is refused") {
  Temporary temporary;
  std::string path = vduse::InFlightFile::path_for("vdev");
  vduse::InFlightShape shape{.features = 5, .queues = 2, .queue_size = 128};
  {
    vduse::InFlightFile::make(path, shape);
  }
  auto opens = [&](vduse::InFlightShape other) {
    try {
      vduse::InFlightFile::open(path, other, {});
    } catch (const Error& error) {
      return error.text() == path + " belongs to a device with other options" ? 0 : -1;
    }
    return 1;
  };
  CHECK(opens(shape) == 1);
  CHECK(opens({.features = 4, .queues = 2, .queue_size = 128}) == 0);
  CHECK(opens({.features = 5, .queues = 3, .queue_size = 128}) == 0);
  CHECK(opens({.features = 5, .queues = 2, .queue_size = 64}) == 0);
  std::filesystem::resize_file(path, 5000);
  CHECK_THROWS_WITH(vduse::InFlightFile::open(path, shape, {}), Contains("the file ends at 5000"));
  std::filesystem::resize_file(path, 5);
  CHECK(opens(shape) == 0);
}

}  // namespace strata::test
