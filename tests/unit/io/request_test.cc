// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/io/request.h"

#include <catch2/catch.hpp>

#include "block/graph/drain.h"
#include "tests/unit/support/memory_driver.h"

using namespace strata;
using namespace strata::test;
using Calls = std::vector<std::string>;

namespace {

struct Disk : Fixture {
  explicit Disk(MemoryBehaviour with = {}, int64_t size = 1 << 20) {
    behaviour = with;
    node = open_memory("disk", size);
    user.attach(loop, node, kReadWrite);
  }
  ~Disk() { run(user.close(loop)); }

  Status write(uint64_t offset, size_t bytes, char fill, WriteFlags flags = {}) {
    std::string data(bytes, fill);
    return run(user.pwritev(offset, IoVector::buffer(data.data(), bytes), flags));
  }
  std::string read(uint64_t offset, size_t bytes) {
    std::string data(bytes, '?');
    REQUIRE(run(user.preadv(offset, IoVector::buffer(data.data(), bytes))).ok());
    return data;
  }
  Calls take_calls() { return std::exchange(behaviour.calls, {}); }

  NodePtr node;
  Backend user{layer};
};

MemoryBehaviour aligned(uint32_t alignment) {
  MemoryBehaviour behaviour;
  behaviour.limits.request_alignment = alignment;
  return behaviour;
}

}  // namespace

TEST_CASE("a request outside the node is EIO and does not reach the driver") {
  Disk disk;
  CHECK(disk.write(1 << 20, 1, 'x').error_number() == EIO);
  CHECK(disk.write((1 << 20) - 1, 2, 'x').error_number() == EIO);
  CHECK(disk.write(UINT64_MAX, 1, 'x').error_number() == EIO);
  CHECK(disk.run(disk.user.pwrite_zeroes(UINT64_MAX - 1, UINT64_MAX)).error_number() == EIO);
  CHECK(disk.run(disk.user.pdiscard(1, UINT64_MAX)).error_number() == EIO);
  CHECK(disk.take_calls().empty());
  CHECK(disk.write((1 << 20) - 1, 1, 'x').ok());
}

TEST_CASE("an unaligned read is widened and cut back") {
  Disk disk(aligned(512));
  for (size_t i = 0; i < 4096; ++i) Disk::data_of(*disk.node)[i] = std::byte(i % 251);
  std::string data = disk.read(500, 1000);
  for (size_t i = 0; i < 1000; ++i) REQUIRE(static_cast<unsigned char>(data[i]) == (500 + i) % 251);
  CHECK(disk.take_calls() == Calls{"read 0+1536"});
}

TEST_CASE("an unaligned write keeps what lies around it") {
  Disk disk(aligned(512));
  REQUIRE(disk.write(0, 4096, 'a').ok());
  disk.take_calls();
  SECTION("in one unit") {
    REQUIRE(disk.write(100, 10, 'b').ok());
    CHECK(disk.take_calls() == Calls{"read 0+512", "write 0+512"});
    CHECK(disk.read(0, 512) ==
          std::string(100, 'a') + std::string(10, 'b') + std::string(402, 'a'));
  }
  SECTION("over several") {
    REQUIRE(disk.write(500, 1100, 'b').ok());
    CHECK(disk.take_calls() == Calls{"read 0+512", "read 1536+512", "write 0+2048"});
    CHECK(disk.read(499, 1102) == "a" + std::string(1100, 'b') + "a");
  }
  SECTION("with only its end unaligned") {
    REQUIRE(disk.write(512, 513, 'b').ok());
    CHECK(disk.take_calls() == Calls{"read 1024+512", "write 512+1024"});
    CHECK(disk.read(511, 515) == "a" + std::string(513, 'b') + "a");
  }
}

namespace {

Task<void> write_byte(Backend& user, uint64_t offset, char value, Status& status) {
  status = co_await user.pwritev(offset, IoVector::buffer(&value, 1));
}

Task<void> write_unit(Backend& user, uint64_t offset, std::string data, Status& status) {
  status = co_await user.pwritev(offset, IoVector::buffer(data.data(), data.size()));
}

Task<void> write_all_at_once(Backend& user, std::vector<Status>& statuses) {
  TaskScope scope;
  for (size_t i = 0; i < statuses.size(); ++i)
    scope.spawn(write_byte(user, i, static_cast<char>('a' + i % 26), statuses[i]));
  co_await scope.join();
}

Task<void> write_around(Backend& user, std::array<Status, 3>& statuses) {
  TaskScope scope;
  scope.spawn(write_unit(user, 0, std::string(512, 'x'), statuses[0]));
  scope.spawn(write_byte(user, 600, 'b', statuses[1]));
  scope.spawn(write_unit(user, 512, std::string(512, 'y'), statuses[2]));
  co_await scope.join();
}

}  // namespace

TEST_CASE("unaligned writes to one unit at the same time lose nothing") {
  MemoryBehaviour behaviour = aligned(512);
  behaviour.yields = true;
  Disk disk(behaviour);
  std::vector<Status> statuses(300, Status::error(EIO));
  disk.run(write_all_at_once(disk.user, statuses));
  for (Status status : statuses) CHECK(status.ok());
  std::string data = disk.read(0, 300);
  for (size_t i = 0; i < 300; ++i) REQUIRE(data[i] == static_cast<char>('a' + i % 26));
}

TEST_CASE("an aligned write after a read-modify-write of its unit has the last word") {
  MemoryBehaviour behaviour = aligned(512);
  behaviour.yields = true;
  Disk disk(behaviour);
  std::array<Status, 3> statuses;
  disk.run(write_around(disk.user, statuses));
  CHECK(disk.read(0, 1024) == std::string(512, 'x') + std::string(512, 'y'));
}

TEST_CASE("a request larger than the driver takes arrives in pieces") {
  MemoryBehaviour behaviour = aligned(512);
  behaviour.limits.max_transfer = 4096;
  Disk disk(behaviour);
  REQUIRE(disk.write(0, 10240, 'q').ok());
  CHECK(disk.take_calls() == Calls{"write 0+4096", "write 4096+4096", "write 8192+2048"});
  CHECK(disk.read(0, 10240) == std::string(10240, 'q'));
}

TEST_CASE("memory that the kernel would not take is copied") {
  MemoryBehaviour behaviour = aligned(512);
  behaviour.limits.min_memory_alignment = 512;
  Disk disk(behaviour);
  std::string data(1025, 'm');
  CHECK(disk.run(disk.user.pwritev(0, IoVector::buffer(data.data() + 1, 1024))).ok());
  CHECK(disk.read(0, 1024) == std::string(1024, 'm'));
}

TEST_CASE("zeroes are written as data where the driver has no better way") {
  Disk disk(aligned(512));
  REQUIRE(disk.write(0, 4096, 'z').ok());
  disk.take_calls();
  CHECK(disk.run(disk.user.pwrite_zeroes(512, 1024)).ok());
  CHECK(disk.take_calls() == Calls{"write 512+1024"});
  CHECK(disk.read(511, 1026) == "z" + std::string(1024, '\0') + "z");
  CHECK(disk.run(disk.user.pwrite_zeroes(0, 512, WriteFlag::no_fallback)).error_number() ==
        ENOTSUP);
}

TEST_CASE("zeroes go to the driver in its units, unmapped only if the node may") {
  MemoryBehaviour behaviour = aligned(512);
  behaviour.knows_zeroes = true;
  behaviour.zero_flags = WriteFlag::may_unmap;
  behaviour.limits.pwrite_zeroes_alignment = 4096;
  Disk disk(behaviour);
  CHECK(disk.run(disk.user.pwrite_zeroes(3584, 9216, WriteFlag::may_unmap)).ok());
  CHECK(disk.take_calls() == Calls{"unmap 3584+512", "unmap 4096+8192", "unmap 12288+512"});
  disk.node->mutable_options().discard_unmap = false;
  CHECK(disk.run(disk.user.pwrite_zeroes(0, 4096, WriteFlag::may_unmap)).ok());
  CHECK(disk.take_calls() == Calls{"zero 0+4096"});
}

TEST_CASE("zeroes with unaligned ends keep what lies around them") {
  MemoryBehaviour behaviour = aligned(512);
  behaviour.knows_zeroes = true;
  Disk disk(behaviour);
  REQUIRE(disk.write(0, 4096, 'z').ok());
  CHECK(disk.run(disk.user.pwrite_zeroes(100, 2000)).ok());
  CHECK(disk.read(99, 2002) == "z" + std::string(2000, '\0') + "z");
  CHECK(disk.run(disk.user.pwrite_zeroes(3000, 10)).ok());
  CHECK(disk.read(2999, 12) == "z" + std::string(10, '\0') + "z");
}

TEST_CASE("detect-zeroes turns zero data into zeroes") {
  MemoryBehaviour behaviour = aligned(512);
  behaviour.knows_zeroes = true;
  behaviour.zero_flags = WriteFlag::may_unmap;
  Disk disk(behaviour);
  disk.node->mutable_options().detect_zeroes = qapi::BlockdevDetectZeroesOptions::on;
  CHECK(disk.write(0, 4096, '\0').ok());
  CHECK(disk.take_calls() == Calls{"zero 0+4096"});
  disk.node->mutable_options().detect_zeroes = qapi::BlockdevDetectZeroesOptions::unmap;
  CHECK(disk.write(0, 4096, '\0').ok());
  CHECK(disk.write(4096, 4096, 'x').ok());
  CHECK(disk.take_calls() == Calls{"unmap 0+4096", "write 4096+4096"});
}

TEST_CASE("FUA is the driver's own or a flush") {
  SECTION("its own") {
    MemoryBehaviour behaviour;
    behaviour.write_flags = WriteFlag::fua;
    Disk disk(behaviour);
    CHECK(disk.write(0, 512, 'f', WriteFlag::fua).ok());
    CHECK(disk.take_calls() == Calls{"write-fua 0+512"});
  }
  SECTION("a flush") {
    Disk disk;
    CHECK(disk.write(0, 512, 'f', WriteFlag::fua).ok());
    CHECK(disk.take_calls() == Calls{"write 0+512", "flush 0+0"});
  }
  SECTION("each write's, without a write cache") {
    Disk disk;
    disk.user.set_write_cache(false);
    CHECK(disk.write(0, 512, 'f').ok());
    CHECK(disk.take_calls() == Calls{"write 0+512", "flush 0+0"});
  }
}

TEST_CASE("a flush reaches the driver only after a write, and again after it failed") {
  Disk disk;
  CHECK(disk.run(disk.user.flush()).ok());
  CHECK(disk.take_calls().empty());
  CHECK(disk.write(0, 512, 'f').ok());
  disk.take_calls();
  disk.behaviour.fail_next = EIO;
  CHECK(disk.run(disk.user.flush()).error_number() == EIO);
  CHECK(disk.run(disk.user.flush()).ok());
  CHECK(disk.run(disk.user.flush()).ok());
  CHECK(disk.take_calls() == Calls{"flush 0+0", "flush 0+0"});
}

TEST_CASE("a discard that fails for want of support has done its duty") {
  Disk disk;
  disk.behaviour.fail_next = ENOTSUP;
  CHECK(disk.run(disk.user.pdiscard(0, 4096)).ok());
  disk.behaviour.fail_next = EIO;
  CHECK(disk.run(disk.user.pdiscard(0, 4096)).error_number() == EIO);
  disk.take_calls();
  disk.node->mutable_options().discard_unmap = false;
  CHECK(disk.run(disk.user.pdiscard(0, 4096)).ok());
  CHECK(disk.take_calls().empty());
}

TEST_CASE("an error of the driver is the request's, and is counted") {
  Disk disk;
  disk.behaviour.fail_next = ENOSPC;
  CHECK(disk.write(0, 512, 'e').error_number() == ENOSPC);
  IoTotals totals = disk.user.stats().totals(IoKind::write);
  CHECK(totals.requests == 1);
  CHECK(totals.failed == 1);
  CHECK(totals.bytes == 0);
  CHECK(totals.in_flight == 0);
  CHECK(disk.node->io().stats.totals(IoKind::write).failed == 1);
}

namespace {

Task<void> one_turn(AioContext& context) {
  co_await context.yield();
}

}  // namespace

TEST_CASE("the first write past the threshold is reported, once") {
  Disk disk;
  disk.node->io().write_threshold = 4096;
  CHECK(disk.write(0, 4096, 't').ok());
  CHECK(disk.write(4096, 512, 't').ok());
  CHECK(disk.write(8192, 512, 't').ok());
  disk.run(one_turn(disk.context));  // events are delivered on a later turn
  CHECK(disk.events == Calls{"BLOCK_WRITE_THRESHOLD"});
  CHECK(disk.node->io().write_threshold == 0);
}

TEST_CASE("truncate changes the length and tells the user") {
  Disk disk;
  int told = 0;
  disk.user.on_resize([&] { ++told; });
  disk.run(disk.user.truncate(1 << 21));
  CHECK(disk.user.length() == 1 << 21);
  CHECK(told == 1);
  CHECK_THROWS_AS(disk.run(disk.user.truncate(UINT64_MAX)), Error);
  disk.user.on_resize(nullptr);
}

namespace {

Task<void> truncate(Backend& user, uint64_t size, bool& done) {
  co_await user.truncate(size);
  done = true;
}

Task<void> write_while_truncated(Backend& user, uint64_t size, Status& status, bool& went_on) {
  bool done = false;
  TaskScope scope;
  scope.spawn(truncate(user, size, done));
  co_await AioContext::current()->yield();
  co_await write_byte(user, 0, 'x', status);
  went_on = !done;
  co_await scope.join();
}

}  // namespace

TEST_CASE("while the size changes others write to what stays, and bitmaps record it") {
  uint64_t size = GENERATE(uint64_t{1} << 21, uint64_t{1} << 19);
  Disk disk;
  auto bitmap = std::make_shared<DirtyBitmap>("b", 1 << 20, 65536);
  disk.node->bitmaps().add(bitmap);
  disk.behaviour.yields = true;
  Status status = Status::error(EIO);
  bool went_on = false;
  disk.run(write_while_truncated(disk.user, size, status, went_on));
  CHECK(status.ok());
  CHECK(went_on);
  CHECK(bitmap->is_dirty(0));
  CHECK(bitmap->size() == size);
}

namespace {

Task<void> write_while_drained(MainLoop& loop, Disk& disk, bool& ended_early) {
  DrainedSection drained = co_await DrainedSection::begin(loop, {disk.node.get()});
  Status status = Status::error(EIO);
  TaskScope scope;
  scope.spawn(write_byte(disk.user, 0, 'd', status));
  for (int i = 0; i < 10; ++i) co_await loop.context().yield();
  ended_early = status.ok();
  drained.end();
  co_await scope.join();
  CHECK(status.ok());
}

}  // namespace

TEST_CASE("a drained node is left alone until the section ends") {
  Disk disk;
  bool ended_early = true;
  disk.run(write_while_drained(disk.loop, disk, ended_early));
  CHECK_FALSE(ended_early);
}

TEST_CASE("a vector of several pieces is one request") {
  Disk disk;
  std::string a(100, 'a');
  std::string b(412, 'b');
  std::array<iovec, 2> parts{iovec{a.data(), a.size()}, iovec{b.data(), b.size()}};
  CHECK(disk.run(disk.user.pwritev(0, IoVector(std::span<const iovec>(parts)))).ok());
  CHECK(disk.take_calls() == Calls{"write 0+512"});
  CHECK(disk.read(0, 512) == a + b);
}

TEST_CASE("a node that closes is flushed once, after writes, and where that is wanted") {
  Fixture f;
  auto calls_of = [&](bool no_flush, bool write) {
    qapi::BlockdevOptions options;
    options.select(qapi::BlockdevDriver::null_co);
    options.node_name = "n";
    options.cache.emplace().no_flush = no_flush;
    NodePtr node = f.open(std::move(options));
    Backend user(f.layer);
    user.attach(f.loop, std::move(node), kReadWrite);
    char byte = 1;
    if (write) REQUIRE(f.run(user.pwritev(0, IoVector::buffer(&byte, 1))).ok());
    f.behaviour.calls.clear();
    f.run(user.close(f.loop));
    return std::exchange(f.behaviour.calls, {});
  };
  CHECK(calls_of(false, true) == Calls{"flush 0+0"});
  CHECK(calls_of(false, false).empty());
  CHECK(calls_of(true, true).empty());
}
