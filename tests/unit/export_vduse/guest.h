// SPDX-License-Identifier: GPL-2.0-or-later
//
// A driver of a virtio block device on the bus of the stand-in, and an export that serves it.
#pragma once

#include <catch2/catch.hpp>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "block/export/vduse/export.h"
#include "block/export/vduse/in_flight_file.h"
#include "block/export/virtio_blk/device.h"
#include "block/virtio/ring.h"
#include "tests/support/vring.h"
#include "tests/unit/export_vduse/fake_kernel.h"
#include "tests/unit/support/memory_driver.h"

namespace strata::test {

using virtio_blk::bit;

inline constexpr uint64_t kSplit =
    bit(VIRTIO_F_VERSION_1) | bit(VIRTIO_F_ACCESS_PLATFORM) | bit(VIRTIO_BLK_F_FLUSH);
inline constexpr uint64_t kPacked = kSplit | bit(VIRTIO_F_RING_PACKED);
inline constexpr uint8_t kFeaturesOk = VIRTIO_CONFIG_S_FEATURES_OK;
inline constexpr uint8_t kDriverOk = kFeaturesOk | VIRTIO_CONFIG_S_DRIVER_OK;

// Rings lie in one region of memory, buffers in another, as the kernel has them.
class Guest {
 public:
  static constexpr uint64_t kRings = 0x4000'0000;  // address of the rings' region
  static constexpr uint64_t kRingBytes = 64 << 10;
  static constexpr uint64_t kQueueBytes = 0x4000;  // of it
  static constexpr uint64_t kBuffers = 0x1000;     // address of the buffers' region
  static constexpr uint64_t kBufferBytes = 1 << 20;
  static constexpr uint16_t kSize = 16;

  Guest(FakeKernel& kernel, AioContext& context, std::string name = "vdev")
      : kernel_(kernel), context_(context), name_(std::move(name)) {}

  FakeDevice& device() { return kernel_.devices.at(name_); }
  FakeQueue& queue(uint32_t index = 0) { return device().queues.at(index); }

  // What virtio-vdpa does: the bus, memory, features, queues, and the driver is ready. False where
  // the device refuses. `ready`: how many of the queues.
  Task<bool> begin(uint64_t features = kSplit, size_t ready = SIZE_MAX) {
    device().on_bus = true;
    packed_ = (features & bit(VIRTIO_F_RING_PACKED)) != 0;
    co_await kernel_.set_status(context_, name_, 0);
    show_memory();
    device().accepted = features;
    if (!co_await kernel_.set_status(context_, name_, kFeaturesOk)) co_return false;
    for (uint32_t i = 0; i < device().queues.size(); ++i) prepare(i, i < ready);
    co_return co_await kernel_.set_status(context_, name_, kDriverOk);
  }
  Task<bool> status(uint8_t status) { return kernel_.set_status(context_, name_, status); }
  Task<vduse_dev_response> ask(vduse_dev_request request) {
    return kernel_.ask(context_, name_, request);
  }
  Task<bool> update_memory() {
    vduse_dev_request request{};
    request.type = VDUSE_UPDATE_IOTLB;
    request.iova = {0, UINT64_MAX};
    vduse_dev_response response = co_await ask(request);
    co_return response.result == VDUSE_REQ_RESULT_OK;
  }

  void show_memory(uint8_t buffer_access = VDUSE_ACCESS_RW) {
    device().regions = {region(memory->fd(), 0, kRings, kRingBytes, VDUSE_ACCESS_RW),
                        region(memory->fd(), kRingBytes, kBuffers, kBufferBytes, buffer_access)};
  }
  static FakeRegion region(int fd, uint64_t offset, uint64_t start, uint64_t size, uint8_t access) {
    FakeRegion made{fd, {}};
    made.entry.offset = offset;
    made.entry.start = start;
    made.entry.last = start + size - 1;
    made.entry.perm = access;
    return made;
  }

  void prepare(uint32_t index, bool ready) {
    std::byte* rings = memory->data() + index * kQueueBytes;
    std::memset(rings, 0, kQueueBytes);
    uint64_t address = kRings + index * kQueueBytes;
    vduse_vq_info& info = queue(index).info;
    info.num = kSize;
    info.desc_addr = address;
    info.driver_addr = address + 0x1000;
    info.device_addr = address + 0x2000;
    info.ready = ready;
    if (packed_) info.packed = {1, 0, 1, 0};
    split_.resize(std::max<size_t>(split_.size(), index + 1));
    packed_rings_.resize(split_.size());
    split_[index] = std::make_unique<SplitDriver>(rings, rings + 0x1000, rings + 0x2000, kSize);
    packed_rings_[index] =
        std::make_unique<PackedDriver>(rings, rings + 0x1000, rings + 0x2000, kSize);
  }

  std::byte* buffer(uint64_t offset) { return memory->data() + kRingBytes + offset; }

  // A request whose parts lie in slot `slot` of the buffers: header, data, status.
  static constexpr uint64_t kSlotBytes = 64 << 10;
  void post(uint32_t type, uint64_t sector, uint32_t bytes, bool from_device, uint16_t slot = 0,
            uint32_t index = 0) {
    uint64_t at = slot * kSlotBytes;
    virtio_blk_outhdr header{type, 0, sector};
    std::memcpy(buffer(at), &header, sizeof header);
    *buffer(at + 16) = std::byte{0xff};
    std::vector<Buffer> chain{{kBuffers + at, sizeof header, false}};
    if (bytes != 0) chain.push_back({kBuffers + at + 512, bytes, from_device});
    chain.push_back({kBuffers + at + 16, 1, true});
    if (packed_)
      packed_rings_[index]->add(slot, chain);
    else
      split_[index]->add(static_cast<uint16_t>(slot * 3), chain);
  }
  std::byte* data(uint16_t slot = 0) { return buffer(slot * kSlotBytes + 512); }
  int status_of(uint16_t slot = 0) { return static_cast<int>(*buffer(slot * kSlotBytes + 16)); }
  void fill(char letter, uint32_t bytes, uint16_t slot = 0) {
    std::memset(data(slot), letter, bytes);
  }
  bool has_used(uint32_t index = 0) const {
    return packed_ ? packed_rings_[index]->has_used() : split_[index]->has_used();
  }
  std::optional<Done> reap(uint32_t index = 0) {
    return packed_ ? packed_rings_[index]->reap() : split_[index]->reap();
  }
  void kick(uint32_t index = 0) { kernel_.kick(device(), index); }

  // Lets everything that can happen without a timer happen.
  Task<void> settle() {
    for (int i = 0; i < 100; ++i) co_await context_.yield();
  }
  // Until the driver is called, and finds something.
  Task<Done> next(uint32_t index = 0) {
    while (!has_used(index) || kernel_.interrupts(device(), index) == 0)
      co_await context_.sleep_for(std::chrono::microseconds(100));
    co_return *reap(index);
  }
  // What a request came to: the device's status.
  Task<int> request(uint32_t type, uint64_t sector, uint32_t bytes, bool from_device,
                    uint32_t index = 0) {
    post(type, sector, bytes, from_device, 0, index);
    kick(index);
    co_await next(index);
    co_return status_of();
  }
  Task<int> write(uint64_t sector, char letter, uint32_t bytes = 512, uint32_t index = 0) {
    fill(letter, bytes);
    return request(VIRTIO_BLK_T_OUT, sector, bytes, false, index);
  }
  Task<std::string> read(uint64_t sector, uint32_t bytes = 512, uint32_t index = 0) {
    fill(0, bytes);
    int status = co_await request(VIRTIO_BLK_T_IN, sector, bytes, true, index);
    if (status != VIRTIO_BLK_S_OK) co_return "error " + std::to_string(status);
    co_return std::string(reinterpret_cast<char*>(data()), bytes);
  }

  std::unique_ptr<FakeGuest> memory = std::make_unique<FakeGuest>(kRingBytes + kBufferBytes);

 private:
  FakeKernel& kernel_;
  AioContext& context_;
  std::string name_;
  bool packed_ = false;
  std::vector<std::unique_ptr<SplitDriver>> split_;
  std::vector<std::unique_ptr<PackedDriver>> packed_rings_;
};

// A place for temporary files.
class Temporary {
 public:
  Temporary() {
    std::string path = "/tmp/strata-unit-XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) std::abort();
    path_ = path;
    ::setenv("TMPDIR", path_.c_str(), 1);
  }
  ~Temporary() {
    ::unsetenv("TMPDIR");
    std::filesystem::remove_all(path_);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A process with a memory node 'disk' of 1 MiB.
class VduseFixture : public Fixture {
 public:
  explicit VduseFixture(FakeKernel& kernel) : kernel_(kernel) {
    behaviour.knows_zeroes = true;
    behaviour.zero_flags = WriteFlags(WriteFlag::may_unmap);
    register_vduse_blk(registry, nullptr, kernel_);
    node_ = open_memory("disk");
  }
  ~VduseFixture() {
    run(registry.remove_all(loop));
    run(layer.release(loop, std::move(node_)));
  }

  qapi::BlockExportOptions options(std::string name = "vdev") {
    qapi::BlockExportOptions made;
    made.id = "exp";
    made.node_name = "disk";
    made.writable = true;
    made.select(qapi::BlockExportType::vduse_blk);
    made.get_if<qapi::BlockExportOptionsVduseBlk>()->name = std::move(name);
    return made;
  }
  void add(qapi::BlockExportOptions options) { run(registry.add(loop, std::move(options))); }
  void add() { add(options()); }
  std::string error_of(qapi::BlockExportOptions options) {
    try {
      add(std::move(options));
    } catch (const Error& error) {
      return error.text();
    }
    return "";
  }
  void remove() { run(registry.remove(loop, "exp", qapi::BlockExportRemoveMode::hard)); }
  size_t users() { return registry.find("exp")->users(); }
  Node& node() { return *node_; }

  ExportRegistry registry{layer, [this](const std::string& name) -> AioContext& {
                            if (iothread == nullptr) throw Error("iothread \"{}\" not found", name);
                            return *iothread;
                          }};
  AioContext* iothread = nullptr;

 private:
  FakeKernel& kernel_;
  NodePtr node_;
};

}  // namespace strata::test
