// SPDX-License-Identifier: GPL-2.0-or-later
//
// A driver over memory that notes what it is asked and fails where it is told to. It goes by the
// name of null-co, whose options it takes.
#pragma once

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "block/aio/aio_context.h"
#include "block/base/error.h"
#include "block/drivers/raw/raw.h"
#include "block/graph/open.h"
#include "block/io/backend.h"

namespace strata::test {

// What a test can set; shared by all nodes that a fixture opens.
struct MemoryBehaviour {
  Limits limits;
  WriteFlags write_flags;
  WriteFlags zero_flags;
  bool knows_zeroes = false;       // pwrite_zeroes is there
  int fail_next = 0;               // errno of the next request
  bool yields = false;             // requests go through the loop once, truncate() many times
  std::vector<std::string> calls;  // "read 0+512", ...

  void note(const char* what, uint64_t offset, uint64_t bytes) {
    calls.push_back(fmt::format("{} {}+{}", what, offset, bytes));
  }
};

class MemoryDriver final : public Driver {
 public:
  MemoryDriver(const DriverDescriptor& descriptor, MemoryBehaviour& behaviour)
      : Driver(descriptor), behaviour_(behaviour) {}

  Task<void> open(OpenContext& context) override {
    if (behaviour_.fail_next != 0)
      throw Error::from_errno(std::exchange(behaviour_.fail_next, 0), "Could not open memory");
    auto size = context.branch<qapi::BlockdevOptionsNull>().size.value_or(1 << 20);
    data.resize(static_cast<size_t>(size));
    co_return;
  }
  Task<Status> preadv(uint64_t offset, IoVector into, ReadFlags) override {
    behaviour_.note("read", offset, into.size());
    if (behaviour_.yields) co_await AioContext::current()->yield();
    if (Status failure = take_failure(); !failure.ok()) co_return failure;
    into.fill(std::byte{0});
    if (offset < data.size()) {
      size_t size = std::min(into.size(), data.size() - offset);
      IoVector part = into.slice(0, size);
      part.copy_from(data.data() + offset);
    }
    co_return Status();
  }
  Task<Status> pwritev(uint64_t offset, IoVector from, WriteFlags flags) override {
    behaviour_.note(flags.has(WriteFlag::fua) ? "write-fua" : "write", offset, from.size());
    if (behaviour_.yields) co_await AioContext::current()->yield();
    if (Status failure = take_failure(); !failure.ok()) co_return failure;
    if (offset + from.size() > data.size()) data.resize(offset + from.size());
    from.copy_to(data.data() + offset);
    co_return Status();
  }
  Task<Status> pwrite_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags) override {
    if (!behaviour_.knows_zeroes) co_return Status::error(ENOTSUP);
    behaviour_.note(flags.has(WriteFlag::may_unmap) ? "unmap" : "zero", offset, bytes);
    if (offset + bytes > data.size()) data.resize(offset + bytes);
    std::memset(data.data() + offset, 0, bytes);
    co_return Status();
  }
  Task<Status> pdiscard(uint64_t offset, uint64_t bytes) override {
    behaviour_.note("discard", offset, bytes);
    co_return take_failure();
  }
  Task<Status> flush() override {
    behaviour_.note("flush", 0, 0);
    co_return take_failure();
  }
  Task<Result<uint64_t>> length() override { co_return uint64_t{data.size()}; }
  Task<void> truncate(uint64_t size, TruncateOptions) override {
    for (int i = 0; behaviour_.yields && i < 100; ++i) co_await AioContext::current()->yield();
    data.resize(size);
  }
  Limits limits(const Limits&) const noexcept override { return behaviour_.limits; }
  WriteFlags write_flags() const noexcept override { return behaviour_.write_flags; }
  WriteFlags zero_flags() const noexcept override { return behaviour_.zero_flags; }
  FileName file_name() const override { return {"memory://", {{"driver", "null-co"}}}; }

  std::vector<std::byte> data;

 private:
  Status take_failure() noexcept { return Status::error(std::exchange(behaviour_.fail_next, 0)); }
  MemoryBehaviour& behaviour_;
};

// Drivers are made by plain functions, so what they share is the test's.
inline MemoryBehaviour*& current_behaviour() {
  static MemoryBehaviour* behaviour = nullptr;
  return behaviour;
}

inline const DriverDescriptor kMemoryDriver{
    .name = qapi::BlockdevDriver::null_co,
    .is_protocol = true,
    .create = [](const DriverDescriptor& descriptor) -> std::unique_ptr<Driver> {
      return std::make_unique<MemoryDriver>(descriptor, *current_behaviour());
    }};

// A layer with the memory driver and raw, in a loop that runs when asked to.
class Fixture {
 public:
  Fixture() { current_behaviour() = &behaviour; }

  NodePtr open(qapi::BlockdevOptions options) {
    return context.run_to_completion(open_node(loop, layer, std::move(options)));
  }
  NodePtr open_memory(const std::string& name, int64_t size = 1 << 20) {
    qapi::BlockdevOptions options;
    options.select(qapi::BlockdevDriver::null_co);
    options.node_name = name;
    options.get_if<qapi::BlockdevOptionsNull>()->size = size;
    options.discard = qapi::BlockdevDiscardOptions::unmap;
    return open(std::move(options));
  }
  NodePtr open_raw(const std::string& name, const std::string& file) {
    qapi::BlockdevOptions options;
    options.select(qapi::BlockdevDriver::raw);
    options.node_name = name;
    options.get_if<qapi::BlockdevOptionsRaw>()->file = file;
    return open(std::move(options));
  }
  template <class T>
  T run(Task<T> task) {
    return context.run_to_completion(std::move(task));
  }
  static std::vector<std::byte>& data_of(Node& node) {
    return static_cast<MemoryDriver&>(node.driver()).data;
  }

  MemoryBehaviour behaviour;
  AioContext context{"test"};
  MainLoop loop{context};
  std::array<const DriverDescriptor*, 2> drivers{&kMemoryDriver, &kRawDriver};
  std::vector<std::string> events;
  BlockLayer layer{loop, drivers, [this](std::string_view name, boost::json::object) {
                     events.emplace_back(name);
                   }};
};

inline constexpr Permissions kReadWrite{
    {Permission::consistent_read, Permission::write, Permission::resize}, kAllPermissions};

}  // namespace strata::test
