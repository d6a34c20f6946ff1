// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/host_disk.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <numeric>
#include <vector>

#include "block/aio/aio_context.h"
#include "block/aio/host_request.h"
#include "block/aio/iothread.h"
#include "block/aio/run_in.h"
#include "block/base/aligned_buffer.h"
#include "block/coro/scope.h"
#include "tests/unit/aio/scratch_file.h"

namespace strata {
namespace {

constexpr size_t kBlock = 4096;

struct Kind {
  DiskEngine engine;
  bool direct;
};

std::unique_ptr<HostDisk> make_disk(Kind kind, uint32_t max_batch = 0) {
  DiskGeometry geometry;
  if (kind.direct) geometry.request_alignment = geometry.memory_alignment = kBlock;
  return std::make_unique<HostDisk>(
      test::scratch_file(kind.direct), geometry,
      HostDisk::Options{.direct = kind.direct, .engine = kind.engine, .max_batch = max_batch});
}

// Those that this host allows.
std::vector<Kind> kinds() {
  std::vector<Kind> all{{DiskEngine::threads, false}, {DiskEngine::threads, true}};
  EngineSupport support = EngineSupport::probe();
  if (support.native == 0) all.push_back({DiskEngine::native, true});
  if (support.io_uring == 0) {
    all.push_back({DiskEngine::io_uring, false});
    all.push_back({DiskEngine::io_uring, true});
  }
  return all;
}

AlignedBuffer pattern(size_t size, unsigned seed) {
  AlignedBuffer buffer(size);
  for (size_t i = 0; i < size; ++i) buffer.data()[i] = static_cast<std::byte>(seed + i / 512 * 7);
  return buffer;
}

IoVector view(const AlignedBuffer& buffer) {
  return IoVector::buffer(buffer.data(), buffer.size());
}

bool same(const AlignedBuffer& a, const AlignedBuffer& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

#define FOR_EACH_KIND()                      \
  Kind kind = GENERATE(from_range(kinds())); \
  INFO(to_string(kind.engine) << (kind.direct ? " direct" : " buffered"))

TEST_CASE("What was written is read") {
  FOR_EACH_KIND();
  AioContext context("test");
  auto disk = make_disk(kind);
  context.run_to_completion([](HostDisk& disk) -> Task<void> {
    AlignedBuffer out = pattern(16 * kBlock, 1);
    Status written = co_await disk.write(kBlock, view(out));
    CHECK(written.ok());
    AlignedBuffer in(out.size());
    Result<size_t> got = co_await disk.read(kBlock, view(in));
    CHECK(got.ok());
    CHECK(*got == out.size());
    CHECK(same(in, out));
    Result<uint64_t> size = co_await disk.size();
    CHECK(*size == 17 * kBlock);
    Status flushed = co_await disk.flush();
    CHECK(flushed.ok());
    Status durable = co_await disk.write(0, view(out), true);
    CHECK(durable.ok());
  }(*disk));
}

TEST_CASE("A read ends at the end of the file") {
  FOR_EACH_KIND();
  AioContext context("test");
  auto disk = make_disk(kind);
  context.run_to_completion([](HostDisk& disk) -> Task<void> {
    Status grown = co_await disk.truncate(kBlock + 100);
    CHECK(grown.ok());
    AlignedBuffer in(4 * kBlock);
    Result<size_t> got = co_await disk.read(0, view(in));
    REQUIRE(got.ok());
    CHECK(*got == kBlock + 100);
    Result<size_t> beyond = co_await disk.read(2 * kBlock, view(in));
    REQUIRE(beyond.ok());
    CHECK(*beyond == 0);
  }(*disk));
}

TEST_CASE("An empty request does nothing, one that is too long is refused") {
  FOR_EACH_KIND();
  AioContext context("test");
  auto disk = make_disk(kind);
  context.run_to_completion([](HostDisk& disk) -> Task<void> {
    Result<size_t> none = co_await disk.read(0, IoVector());
    REQUIRE(none.ok());
    CHECK(*none == 0);
    char byte = 0;
    Result<size_t> vast = co_await disk.read(0, IoVector::buffer(&byte, Disk::kMaxRequest + 1));
    CHECK(vast.error_number() == EINVAL);
    Status far = co_await disk.write(uint64_t{1} << 63, IoVector::buffer(&byte, 1));
    CHECK(far.error_number() == EINVAL);
  }(*disk));
}

// More pieces than the kernel takes in one call, cut at either end.
TEST_CASE("A vector of any number of pieces is transferred whole") {
  FOR_EACH_KIND();
  AioContext context("test");
  auto disk = make_disk(kind);
  context.run_to_completion([](HostDisk& disk) -> Task<void> {
    constexpr size_t kPieces = 2500;
    AlignedBuffer out = pattern(kPieces * kBlock, 3);
    AlignedBuffer in(out.size());
    std::memset(in.data(), 0, in.size());
    auto split = [&](const AlignedBuffer& buffer) {
      std::vector<iovec> parts;
      for (size_t i = 0; i < kPieces; ++i)
        parts.push_back({buffer.data() + (i % 2 == 0 ? i + 1 : i - 1) * kBlock, kBlock});
      return parts;
    };
    auto out_parts = split(out);
    auto in_parts = split(in);
    size_t size = (kPieces - 2) * kBlock;
    Status written = co_await disk.write(0, IoVector(out_parts).slice(kBlock, size));
    CHECK(written.ok());
    Result<size_t> got = co_await disk.read(0, IoVector(in_parts).slice(kBlock, size));
    REQUIRE(got.ok());
    CHECK(*got == size);
    // Neighbours were swapped, so the first piece, cut off, is the second block, and the last is
    // the last but one.
    CHECK(std::memcmp(in.data(), out.data(), kBlock) == 0);
    CHECK(std::memcmp(in.data() + 2 * kBlock, out.data() + 2 * kBlock, size - 2 * kBlock) == 0);
    CHECK(is_zero_memory(in.data() + kBlock, kBlock));
  }(*disk));
}

Task<void> write_then_read(HostDisk& disk, size_t index, size_t& good) {
  AlignedBuffer out = pattern(kBlock, static_cast<unsigned>(index));
  Status written = co_await disk.write(index * kBlock, view(out));
  AlignedBuffer in(kBlock);
  Result<size_t> got = co_await disk.read(index * kBlock, view(in));
  if (written.ok() && got.ok() && *got == kBlock && same(in, out)) ++good;
}

Task<size_t> many(HostDisk& disk, size_t first, size_t count) {
  size_t good = 0;
  TaskScope scope;
  for (size_t i = 0; i < count; ++i) scope.spawn(write_then_read(disk, first + i, good));
  co_await scope.join();
  co_return good;
}

TEST_CASE("More requests than a ring holds are all served") {
  FOR_EACH_KIND();
  AioContext context("test");
  uint32_t max_batch = GENERATE(0u, 1u, 7u);
  auto disk = make_disk(kind, max_batch);
  size_t count = max_batch == 0 ? 1200 : 60;
  REQUIRE(::ftruncate(disk->fd(), static_cast<off_t>(count * kBlock)) == 0);
  REQUIRE(::posix_fallocate(disk->fd(), 0, static_cast<off_t>(count * kBlock)) == 0);
  CHECK(context.run_to_completion(many(*disk, 0, count)) == count);
}

TEST_CASE("Several contexts use one disk at once") {
  FOR_EACH_KIND();
  auto disk = make_disk(kind);
  AioContext context("main");
  IoThread first("a");
  IoThread second("b");
  size_t good =
      context.run_to_completion([](HostDisk& disk, IoThread& a, IoThread& b) -> Task<size_t> {
        size_t good_a = 0;
        size_t good_b = 0;
        struct There {
          static Task<void> run(Executor& where, HostDisk& disk, size_t first, size_t& good) {
            good = co_await run_in(where, many(disk, first, 200));
          }
        };
        TaskScope scope;
        scope.spawn(There::run(a.context(), disk, 0, good_a));
        scope.spawn(There::run(b.context(), disk, 1000, good_b));
        size_t good_here = co_await many(disk, 2000, 200);
        co_await scope.join();
        co_return good_a + good_b + good_here;
      }(*disk, first, second));
  CHECK(good == 600);
}

TEST_CASE("Errors of the kernel reach the caller") {
  FOR_EACH_KIND();
  AioContext context("test");
  UniqueFd writable = test::scratch_file(kind.direct);
  std::string name = "/proc/self/fd/" + std::to_string(writable.get());
  UniqueFd read_only(::open(name.c_str(), O_RDONLY | O_CLOEXEC | (kind.direct ? O_DIRECT : 0)));
  REQUIRE(read_only);
  DiskGeometry geometry;
  HostDisk disk(std::move(read_only), geometry, {.direct = kind.direct, .engine = kind.engine});
  context.run_to_completion([](HostDisk& disk) -> Task<void> {
    AlignedBuffer out = pattern(kBlock, 1);
    Status written = co_await disk.write(0, view(out));
    CHECK(written.error_number() == EBADF);
    Status truncated = co_await disk.truncate(0);
    CHECK_FALSE(truncated.ok());
  }(disk));
}

TEST_CASE("Space is allocated, zeroed and given back, and its extents told") {
  AioContext context("test");
  auto disk = make_disk({DiskEngine::threads, false});
  context.run_to_completion([](HostDisk& disk) -> Task<void> {
    AlignedBuffer out = pattern(16 * kBlock, 1);
    Status written = co_await disk.write(0, view(out));
    CHECK(written.ok());
    Status punched = co_await disk.change_space(SpaceChange::punch_hole, {4 * kBlock, 4 * kBlock});
    CHECK(punched.ok());
    Result<DiskExtent> data = co_await disk.extent_at(0, 16 * kBlock);
    REQUIRE(data.ok());
    CHECK(data->bytes == 4 * kBlock);
    CHECK_FALSE(data->is_hole);
    Result<DiskExtent> hole = co_await disk.extent_at(5 * kBlock, 16 * kBlock);
    REQUIRE(hole.ok());
    CHECK(hole->bytes == 3 * kBlock);
    CHECK(hole->is_hole);
    Result<DiskExtent> part = co_await disk.extent_at(8 * kBlock, 100);
    CHECK(part->bytes == 100);
    CHECK_FALSE(part->is_hole);
    Result<DiskExtent> end = co_await disk.extent_at(16 * kBlock, 100);
    CHECK(end->bytes == 0);

    Status grown = co_await disk.truncate(32 * kBlock);
    CHECK(grown.ok());
    Result<DiskExtent> tail = co_await disk.extent_at(20 * kBlock, UINT64_MAX - 20 * kBlock);
    CHECK(tail->bytes == 12 * kBlock);
    CHECK(tail->is_hole);
    Status zeroed = co_await disk.change_space(SpaceChange::zero, {0, 2 * kBlock});
    CHECK(zeroed.ok());
    AlignedBuffer in(3 * kBlock);
    Result<size_t> got = co_await disk.read(0, view(in));
    CHECK(*got == in.size());
    CHECK(is_zero_memory(in.data(), 2 * kBlock));
    CHECK(std::memcmp(in.data() + 2 * kBlock, out.data() + 2 * kBlock, kBlock) == 0);
    Status allocated = co_await disk.change_space(SpaceChange::allocate, {32 * kBlock, 8 * kBlock});
    CHECK(allocated.ok());
    Result<uint64_t> size = co_await disk.size();
    CHECK(*size == 40 * kBlock);
    Status dropped = co_await disk.drop_cache();
    CHECK(dropped.ok());
  }(*disk));
}

TEST_CASE("Bytes are copied from disk to disk inside the host") {
  AioContext context("test");
  auto from = make_disk({DiskEngine::threads, false});
  auto to = make_disk({DiskEngine::threads, false});
  context.run_to_completion([](HostDisk& from, HostDisk& to) -> Task<void> {
    AlignedBuffer out = pattern(4 * kBlock, 9);
    Status written = co_await from.write(0, view(out));
    CHECK(written.ok());
    Result<uint64_t> copied = co_await from.copy_range(0, to, kBlock, 4 * kBlock);
    REQUIRE(copied.ok());
    CHECK(*copied == 4 * kBlock);
    AlignedBuffer in(out.size());
    Result<size_t> got = co_await to.read(kBlock, view(in));
    CHECK(got.ok());
    CHECK(same(in, out));
    Result<uint64_t> none = co_await from.copy_range(4 * kBlock, to, 0, kBlock);
    CHECK(*none == 0);
  }(*from, *to));
}

// Registered files must not outlive their disk: the ring would go on using the old file under the
// new one's number.
TEST_CASE("A disk that takes a closed one's descriptor number is another disk") {
  if (EngineSupport::probe().io_uring != 0) return;
  AioContext context("test");
  for (unsigned round = 0; round < 20; ++round) {
    auto disk = make_disk({DiskEngine::io_uring, true});
    context.run_to_completion([](HostDisk& disk, unsigned seed) -> Task<void> {
      Result<uint64_t> size = co_await disk.size();
      CHECK(*size == 0);
      AlignedBuffer out = pattern((seed + 1) * kBlock, seed);
      Status written = co_await disk.write(0, view(out));
      CHECK(written.ok());
      Result<uint64_t> after = co_await disk.size();
      CHECK(*after == out.size());
    }(*disk, round));
  }
}

Task<void> read_repeatedly(HostDisk& disk, std::atomic<bool>& stop, std::atomic<int>& errors) {
  AlignedBuffer in(kBlock);
  while (!stop) {
    Result<size_t> got = co_await disk.read(0, view(in));
    if (!got.ok() || *got != kBlock) ++errors;
  }
}

Task<void> replace_under_readers(HostDisk& disk, Executor& there) {
  struct There {
    static Task<void> run(Executor& executor, HostDisk& disk, std::atomic<bool>& stop,
                          std::atomic<int>& errors) {
      co_await run_in(executor, read_repeatedly(disk, stop, errors));
    }
  };
  AlignedBuffer out = pattern(kBlock, 1);
  Status status = co_await disk.write(0, view(out));
  CHECK(status.ok());
  std::string name = "/proc/self/fd/" + std::to_string(disk.fd());
  int flags = O_CLOEXEC | (disk.options().direct ? O_DIRECT : 0);
  std::atomic<bool> stop{false};
  std::atomic<int> errors{0};
  TaskScope scope;
  for (int i = 0; i < 4; ++i) scope.spawn(There::run(there, disk, stop, errors));
  for (int i = 0; i < 50; ++i) {
    disk.replace_descriptor(UniqueFd(::open(name.c_str(), flags | O_RDONLY)));
    status = co_await disk.write(0, view(out));
    CHECK(status.error_number() == EBADF);
    disk.replace_descriptor(UniqueFd(::open(name.c_str(), flags | O_RDWR)));
    status = co_await disk.write(0, view(out));
    CHECK(status.ok());
  }
  stop = true;
  co_await scope.join();
  CHECK(errors == 0);
}

TEST_CASE("A descriptor is replaced while others read, and holds for what comes after") {
  FOR_EACH_KIND();
  auto disk = make_disk(kind);
  AioContext context("main");
  IoThread thread("reader");
  context.run_to_completion(replace_under_readers(*disk, thread.context()));
}

TEST_CASE("Reads from the page cache do not suspend") {
  AioContext context("test");
  auto disk = make_disk({DiskEngine::threads, false});
  // Where the file system of the scratch file knows no RWF_NOWAIT there is nothing to see.
  char byte = 0;
  iovec part{&byte, 1};
  if (::preadv2(disk->fd(), &part, 1, 0, RWF_NOWAIT) < 0) return;
  context.run_to_completion([](HostDisk& disk, AioContext& context) -> Task<void> {
    AlignedBuffer out = pattern(kBlock, 1);
    Status written = co_await disk.write(0, view(out));
    CHECK(written.ok());
    AlignedBuffer in(kBlock);
    uint64_t before = context.counters().turns;
    for (int i = 0; i < 1000; ++i) {
      Result<size_t> got = co_await disk.read(0, view(in));
      CHECK(*got == kBlock);
    }
    // The kernel may have been busy with the page now and then.
    CHECK(context.counters().turns - before < 100);
  }(*disk, context));
}

TEST_CASE("A file in memory is read and written without suspending") {
  HostDisk disk(UniqueFd(::memfd_create("disk", MFD_CLOEXEC)), DiskGeometry(),
                {.engine = DiskEngine::threads});
  AioContext context("test");
  context.run_to_completion([](HostDisk& disk) -> Task<void> {
    auto at_once = [&disk](DiskRequest::Op op, const AlignedBuffer& buffer) {
      DiskRequest request(disk, op, kBlock, view(buffer), false);
      CHECK_FALSE(disk.start(request));
      return request.result;
    };
    AlignedBuffer out = pattern(16 * kBlock, 1);
    CHECK(at_once(DiskRequest::Op::write, out) == int64_t(out.size()));
    AlignedBuffer in(out.size());
    CHECK(at_once(DiskRequest::Op::read, in) == int64_t(in.size()));
    CHECK(same(in, out));
    CHECK(at_once(DiskRequest::Op::flush, in) == 0);

    AlignedBuffer much = pattern(kLargestInline + kBlock, 2);
    Status written = co_await disk.write(0, view(much));
    CHECK(written.ok());
    AlignedBuffer back(much.size());
    Result<size_t> got = co_await disk.read(0, view(back));
    CHECK(got.ok());
    CHECK(same(back, much));
  }(disk));
}

TEST_CASE("A context without threads writes to the page cache itself") {
  AioContext context("test");
  context.set_thread_pool_limits({.min = 0, .max = 0});
  auto disk = make_disk({DiskEngine::threads, false});
  context.run_to_completion([](HostDisk& disk) -> Task<void> {
    AlignedBuffer out = pattern(2 * kLargestInline, 1);
    DiskRequest request(disk, DiskRequest::Op::write, 0, view(out), false);
    CHECK_FALSE(disk.start(request));
    CHECK(request.result == int64_t(out.size()));
    AlignedBuffer in(out.size());
    Result<size_t> got = co_await disk.read(0, view(in));
    CHECK(got.ok());
    CHECK(same(in, out));
    Status flushed = co_await disk.flush();
    CHECK(flushed.ok());
  }(*disk));
}

}  // namespace
}  // namespace strata
