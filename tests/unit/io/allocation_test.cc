// SPDX-License-Identifier: GPL-2.0-or-later
//
// Requests in the steady state allocate nothing. The program counts every allocation it makes.
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <new>

#include "block/drivers/null/null.h"
#include "tests/unit/support/memory_driver.h"

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

using namespace strata;
using namespace strata::test;

namespace {

// Nothing is asserted in the measured loop: reporting an assertion allocates.
size_t failures = 0;

Task<void> hammer(Backend& user, int rounds) {
  alignas(4096) static char buffer[4096];
  for (int i = 0; i < rounds; ++i) {
    uint64_t offset = static_cast<uint64_t>(i % 64) * sizeof buffer;
    Status status = co_await user.pwritev(offset, IoVector::buffer(buffer, sizeof buffer));
    if (!status.ok()) ++failures;
    status = co_await user.preadv(offset, IoVector::buffer(buffer, sizeof buffer));
    if (!status.ok()) ++failures;
    status = co_await user.flush();
    if (!status.ok()) ++failures;
  }
}

Task<size_t> count_steady_state(Backend& user) {
  co_await hammer(user, 100);  // fills the pools
  size_t before = allocations;
  co_await hammer(user, 1000);
  co_return allocations - before;
}

}  // namespace

TEST_CASE("3000 requests through raw and null-aio allocate nothing") {
  AioContext context("test");
  MainLoop loop(context);
  std::array<const DriverDescriptor*, 2> drivers{&kNullAioDriver, &kRawDriver};
  BlockLayer layer(loop, drivers, nullptr);
  qapi::BlockdevOptions file;
  file.select(qapi::BlockdevDriver::null_aio);
  qapi::BlockdevOptions options;
  options.select(qapi::BlockdevDriver::raw);
  options.get_if<qapi::BlockdevOptionsRaw>()->file = qapi::Box<qapi::BlockdevOptions>(file);
  Backend user(layer);
  user.attach(loop, context.run_to_completion(open_node(loop, layer, options)), kReadWrite);
  CHECK(context.run_to_completion(count_steady_state(user)) == 0);
  CHECK(failures == 0);
  context.run_to_completion(user.close(loop));
}

#endif
