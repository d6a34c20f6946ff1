// SPDX-License-Identifier: GPL-2.0-or-later
//
// Requests of several threads to one image whose cache is far too small for them. To be run under
// ThreadSanitizer, too.
#include <catch2/catch.hpp>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include "block/aio/iothread.h"
#include "block/aio/run_in.h"
#include "block/base/error.h"
#include "block/coro/scope.h"
#include "block/graph/open.h"
#include "block/io/backend.h"
#include "block/qcow2/check.h"
#include "block/qcow2/create.h"
#include "block/qcow2/qcow2.h"

namespace strata {
namespace {

// A file in memory for all threads; each request gives others a turn.
class SharedDisk final : public Driver {
 public:
  using Driver::Driver;

  Task<void> open(OpenContext&) override { return Task<void>::ready(); }
  Task<Status> preadv(uint64_t offset, IoVector into, ReadFlags) override {
    co_await AioContext::current()->yield();
    std::lock_guard lock(mutex());
    uint64_t there =
        std::min<uint64_t>(into.size(), data().size() - std::min<uint64_t>(data().size(), offset));
    if (there != 0) into.slice(0, there).copy_from(data().data() + offset);
    into.slice(there, into.size() - there).fill(std::byte{0});
    co_return Status();
  }
  Task<Status> pwritev(uint64_t offset, IoVector from, WriteFlags) override {
    co_await AioContext::current()->yield();
    std::lock_guard lock(mutex());
    if (offset + from.size() > data().size()) data().resize(offset + from.size());
    from.copy_to(data().data() + offset);
    co_return Status();
  }
  Task<Result<uint64_t>> length() override {
    std::lock_guard lock(mutex());
    co_return uint64_t{data().size()};
  }
  Task<void> truncate(uint64_t size, TruncateOptions) override {
    std::lock_guard lock(mutex());
    data().resize(size);
    co_return;
  }
  bool has_zero_init() const noexcept override { return true; }

  static std::vector<std::byte>& data() {
    static std::vector<std::byte> data;
    return data;
  }
  static std::mutex& mutex() {
    static std::mutex mutex;
    return mutex;
  }
};

const DriverDescriptor kSharedDisk{
    .name = qapi::BlockdevDriver::null_co,
    .is_protocol = true,
    .create = [](const DriverDescriptor& descriptor) -> std::unique_ptr<Driver> {
      return std::make_unique<SharedDisk>(descriptor);
    }};

constexpr uint64_t kSize = 64 << 20;
constexpr uint64_t kBlock = 512;
constexpr size_t kThreads = 3;

struct World {
  explicit World(bool extended = false) : World(extended, extended ? 16384 : 4096) {}
  World(bool extended, uint64_t cluster_size) {
    SharedDisk::data().clear();
    qapi::BlockdevCreateOptionsQcow2 create;
    create.file = file();
    create.size = kSize;
    create.cluster_size = cluster_size;
    create.extended_l2 = extended;
    context.run_to_completion(qcow2::create(loop, layer, create));
    qapi::BlockdevOptions options;
    options.select(qapi::BlockdevDriver::qcow2);
    options.discard = qapi::BlockdevDiscardOptions::unmap;
    auto& image = *options.get_if<qapi::BlockdevOptionsQcow2>();
    image.file = file();
    image.l2_cache_size = 4096;
    image.l2_cache_entry_size = 512;
    user.attach(loop, context.run_to_completion(open_node(loop, layer, std::move(options))),
                {{Permission::consistent_read, Permission::write, Permission::resize}, {}});
    for (size_t i = 0; i < kThreads; ++i) threads.push_back(std::make_unique<IoThread>("worker"));
  }
  ~World() {
    threads.clear();
    context.run_to_completion(user.close(loop));
  }
  qcow2::Image& image() { return *qcow2::image_of(user.node()); }

  static qapi::BlockdevRef file() {
    qapi::BlockdevOptions options;
    options.select(qapi::BlockdevDriver::null_co);
    return qapi::Box<qapi::BlockdevOptions>(std::move(options));
  }

  AioContext context{"main"};
  MainLoop loop{context};
  std::array<const DriverDescriptor*, 2> drivers{&kSharedDisk, &kQcow2Driver};
  BlockLayer layer{loop, drivers, nullptr};
  Backend user{layer};
  std::vector<std::unique_ptr<IoThread>> threads;
  std::atomic<int> working{0};
};

// Block number `number` of a writer's own, far from its others.
uint64_t place_of(int writer, uint64_t number) {
  return ((number * 977 + static_cast<uint64_t>(writer)) % (kSize / kBlock)) * kBlock;
}

Task<void> write_blocks(World& world, int writer, uint64_t count) {
  std::vector<std::byte> block(kBlock);
  for (uint64_t i = 0; i < count; ++i) {
    uint64_t at = place_of(writer, i);
    std::memcpy(block.data(), &at, sizeof at);
    Status status = co_await world.user.pwritev(at, IoVector::buffer(block.data(), kBlock));
    if (!status.ok()) throw Error("write failed");
    if (i % 16 == 7) {
      std::vector<std::byte> back(kBlock);
      at = place_of(writer, i / 2);
      status = co_await world.user.preadv(at, IoVector::buffer(back.data(), kBlock));
      if (!status.ok() || std::memcmp(back.data(), &at, sizeof at) != 0)
        throw Error("what was written is not there");
    }
  }
}

Task<void> some_writers(World& world, int first, int count, uint64_t blocks) {
  TaskScope scope;
  for (int i = 0; i < count; ++i) scope.spawn(write_blocks(world, first + i, blocks));
  co_await scope.join();
  --world.working;
}

Task<void> in_thread(World& world, size_t thread, int first, int count, uint64_t blocks) {
  co_await run_in(world.threads[thread]->context(), some_writers(world, first, count, blocks));
}

// `writers` a thread, all at once, and what else `beside` does meanwhile.
Task<void> all_writers(World& world, int writers, uint64_t blocks, Task<void> (*beside)(World&)) {
  TaskScope scope;
  world.working = kThreads;
  for (size_t i = 0; i < kThreads; ++i)
    scope.spawn(in_thread(world, i, static_cast<int>(i) * writers, writers, blocks));
  if (beside != nullptr) scope.spawn(beside(world));
  co_await scope.join();
}

Task<void> verify(World& world, int writers, uint64_t blocks) {
  std::vector<std::byte> back(kBlock);
  for (int writer = 0; writer < writers; ++writer) {
    for (uint64_t i = 0; i < blocks; ++i) {
      uint64_t at = place_of(writer, i);
      Status status = co_await world.user.preadv(at, IoVector::buffer(back.data(), kBlock));
      if (!status.ok() || std::memcmp(back.data(), &at, sizeof at) != 0)
        throw Error("block at {} is not there", at);
    }
  }
}

void check_sound(World& world) {
  REQUIRE(world.context.run_to_completion(world.image().settle()).ok());
  auto result = world.context.run_to_completion(qcow2::check_image(world.image(), {}, {}));
  REQUIRE(result);
  CHECK(result->corruptions == 0);
  CHECK(result->leaks == 0);
}

Task<void> clean_often(World& world) {
  while (world.working != 0) {
    world.image().clean_caches();
    co_await world.context.sleep_for(std::chrono::milliseconds(5));
  }
}

Task<void> flush_often(World& world) {
  while (world.working != 0) {
    if (!(co_await world.user.flush()).ok()) throw Error("flush failed");
    co_await world.context.sleep_for(std::chrono::milliseconds(1));
  }
}

Task<void> check_often(World& world) {
  std::string report;
  auto say = [&](qcow2::CheckSays, const std::string& line) { report += line + "\n"; };
  do {
    qcow2::CheckResult result =
        co_await qcow2::check_live_image(world.loop, world.image(), false, say);
    if (result.corruptions != 0 || result.check_errors != 0) throw Error("{}", report);
  } while (world.working != 0);
}

Task<void> write_filled(World& world, uint64_t offset, uint64_t bytes, int value) {
  std::vector<std::byte> data(bytes, std::byte(value));
  Status status = co_await world.user.pwritev(offset, IoVector::buffer(data.data(), bytes));
  if (!status.ok()) throw Error("write failed");
}

// The first kilobytes of a cluster of 64 KiB, which has subclusters of 2 KiB: one that is zero, and
// one of data that two write to at once, each to his part.
Task<void> share_a_subcluster(World& world, bool data_first) {
  uint64_t zero = data_first ? 2048 : 0;
  co_await write_filled(world, 0, 4096, 1);
  if (!(co_await world.user.pwrite_zeroes(zero, 2048)).ok()) throw Error("zeroes failed");
  TaskScope scope;
  scope.spawn(write_filled(world, data_first ? 512 : 0, data_first ? 3584 : 2560, 2));
  scope.spawn(write_filled(world, data_first ? 0 : 2560, 512, 3));
  co_await scope.join();
  std::vector<std::byte> back(4096);
  (void)co_await world.user.preadv(0, IoVector::buffer(back.data(), back.size()));
  for (uint64_t i = 0; i < 4096; ++i) {
    int wanted = data_first ? (i < 512 ? 3 : 2) : i < 2560 ? 2 : i < 3072 ? 3 : 1;
    if (back[i] != std::byte(wanted)) throw Error("byte {} was lost", i);
  }
}

}  // namespace

TEST_CASE("who writes beside another in a subcluster of data takes nothing from him") {
  World behind(true, 65536);
  behind.context.run_to_completion(share_a_subcluster(behind, false));
  check_sound(behind);
}

TEST_CASE("who writes before another in a subcluster of data takes nothing from him") {
  World before(true, 65536);
  before.context.run_to_completion(share_a_subcluster(before, true));
  check_sound(before);
}

TEST_CASE("more writers than cached slices all finish") {
  World world;
  world.context.run_to_completion(all_writers(world, 11, 100, nullptr));
  world.context.run_to_completion(verify(world, 33, 100));
  check_sound(world);
}

TEST_CASE("more writers of subclusters than cached slices all finish") {
  World world(true);
  world.context.run_to_completion(all_writers(world, 11, 100, flush_often));
  world.context.run_to_completion(verify(world, 33, 100));
  check_sound(world);
}

TEST_CASE("S8: counts are read while writers to shared clusters change them") {
  World world;
  world.context.run_to_completion(all_writers(world, 4, 100, nullptr));
  world.context.run_to_completion(world.image().create_snapshot({.name = "s"}));
  world.context.run_to_completion(all_writers(world, 4, 100, check_often));
  world.context.run_to_completion(verify(world, 12, 100));
  check_sound(world);
}

TEST_CASE("a cleaner takes nothing from under requests of other threads") {
  World world;
  world.context.run_to_completion(all_writers(world, 4, 300, clean_often));
  world.context.run_to_completion(verify(world, 12, 300));
  check_sound(world);
}

}  // namespace strata
