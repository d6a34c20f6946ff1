// SPDX-License-Identifier: GPL-2.0-or-later
//
// Disk requests, timers and thread pool calls in the steady state allocate nothing. The program
// counts every allocation it makes.
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <new>

#include "block/aio/aio_context.h"
#include "block/aio/host_disk.h"
#include "block/aio/thread_pool.h"
#include "block/base/aligned_buffer.h"
#include "tests/unit/aio/scratch_file.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define STRATA_SANITIZED 1  // frames are not pooled then, and operator new is the sanitizer's
#endif
#endif

#ifndef STRATA_SANITIZED

namespace {
std::atomic<size_t> allocations{0};
}

void* operator new(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}

namespace strata {
namespace {

constexpr size_t kBlock = 4096;
constexpr size_t kPieces = 4;

// What went wrong in a measured loop. Nothing is asserted there: reporting an assertion allocates.
size_t failures = 0;

// Whole buffers, and vectors that the kernel cannot take as they are.
Task<void> use_disk(HostDisk& disk, AlignedBuffer& memory, size_t first, int rounds) {
  iovec parts[kPieces];
  for (size_t i = 0; i < kPieces; ++i) parts[i] = {memory.data() + 2 * i * kBlock, kBlock};
  IoVector vector = IoVector(parts).slice(kBlock, 2 * kBlock);
  IoVector whole = IoVector::buffer(memory.data(), 2 * kBlock);
  for (int i = 0; i < rounds; ++i) {
    uint64_t offset = (first + static_cast<size_t>(i) % 8) * kBlock;
    Status written = co_await disk.write(offset, i % 2 == 0 ? vector : whole);
    if (!written.ok()) ++failures;
    Result<size_t> got = co_await disk.read(offset, i % 2 == 0 ? whole : vector);
    if (!got.ok()) ++failures;
  }
  Status flushed = co_await disk.flush();
  if (!flushed.ok()) ++failures;
}

Task<void> use_in_parallel(HostDisk& disk, AlignedBuffer& memory, int rounds) {
  TaskScope scope;
  for (size_t i = 0; i < 8; ++i) scope.spawn(use_disk(disk, memory, i * 16, rounds));
  co_await scope.join();
}

void check_disk(DiskEngine engine, bool direct) {
  INFO(to_string(engine) << (direct ? " direct" : " buffered"));
  AioContext context("test");
  DiskGeometry geometry;
  if (direct) geometry.request_alignment = geometry.memory_alignment = kBlock;
  HostDisk disk(test::scratch_file(direct), geometry, {.direct = direct, .engine = engine});
  AlignedBuffer memory(2 * kPieces * kBlock);
  std::fill_n(memory.data(), memory.size(), std::byte{1});
  context.set_thread_pool_limits({.min = 8, .max = 8});
  context.run_to_completion(use_in_parallel(disk, memory, 50));
  size_t before = allocations;
  context.run_to_completion(use_in_parallel(disk, memory, 50));
  size_t made = allocations - before;
  CHECK(made == 0);
  CHECK(failures == 0);
}

TEST_CASE("Disk requests allocate nothing in the steady state") {
  check_disk(DiskEngine::threads, false);
  check_disk(DiskEngine::threads, true);
  EngineSupport support = EngineSupport::probe();
  if (support.native == 0) check_disk(DiskEngine::native, true);
  if (support.io_uring == 0) {
    check_disk(DiskEngine::io_uring, false);
    check_disk(DiskEngine::io_uring, true);
  }
}

Task<void> use_pool_and_timers(AioContext& context, int rounds) {
  ThreadPool& pool = context.service<ThreadPool>();
  for (int i = 0; i < rounds; ++i) {
    int value = co_await pool.run([i] { return i; });
    if (value != i) ++failures;
    co_await context.sleep_for(std::chrono::microseconds(1));
    co_await context.yield();
  }
}

TEST_CASE("Waiting for threads and for time allocates nothing in the steady state") {
  AioContext context("test");
  context.set_thread_pool_limits({.min = 1, .max = 1});
  context.run_to_completion(use_pool_and_timers(context, 100));
  size_t before = allocations;
  context.run_to_completion(use_pool_and_timers(context, 100));
  size_t made = allocations - before;
  CHECK(made == 0);
  CHECK(failures == 0);
}

}  // namespace
}  // namespace strata

#endif
