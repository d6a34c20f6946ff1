// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/null/null.h"

#include "block/aio/aio_context.h"
#include "block/base/error.h"
#include "block/graph/open.h"

namespace strata {
namespace {

constexpr uint64_t kDefaultSize = 1 << 30;

class NullDriver final : public Driver {
 public:
  using Driver::Driver;

  Task<void> open(OpenContext& context) override {
    const auto& options = context.branch<qapi::BlockdevOptionsNull>();
    if (options.size && *options.size < 0) throw Error("Image size cannot be negative");
    size_ = static_cast<uint64_t>(options.size.value_or(kDefaultSize));
    has_size_option_ = options.size.has_value();
    latency_ = Duration(options.latency_ns.value_or(0));
    read_zeroes_ = options.read_zeroes.value_or(false);
    if (latency_.count() < 0) throw Error("latency-ns is invalid");
    co_return;
  }

  Task<Status> preadv(uint64_t, IoVector into, ReadFlags) override {
    if (read_zeroes_) into.fill(std::byte{0});
    return finish();
  }
  Task<Status> pwritev(uint64_t, IoVector, WriteFlags) override { return finish(); }
  Task<Status> pwrite_zeroes(uint64_t, uint64_t, WriteFlags) override { return finish(); }
  Task<Status> pdiscard(uint64_t, uint64_t) override { return finish(); }
  Task<Status> flush() override { return finish(); }

  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t bytes, StatusWant) override {
    BlockStatus status;
    status.flags = StatusFlag::offset_valid;
    if (read_zeroes_) status.flags |= StatusFlag::zero;
    status.bytes = bytes;
    status.map_offset = offset;
    status.file = &node();
    return Task<Result<BlockStatus>>::ready(status);
  }

  bool knows_zeroes(uint64_t, uint64_t) const noexcept override { return read_zeroes_; }
  Task<Result<uint64_t>> length() override { return Task<Result<uint64_t>>::ready(size_); }

  WriteFlags write_flags() const noexcept override { return WriteFlag::fua; }
  WriteFlags zero_flags() const noexcept override {
    return {WriteFlag::fua, WriteFlag::may_unmap, WriteFlag::no_fallback};
  }

  FileName file_name() const override {
    FileName name;
    std::string driver(descriptor().format_name());
    name.options["driver"] = driver;
    if (has_size_option_)
      name.options["size"] = size_;
    else
      name.exact = driver + "://";
    return name;
  }

 private:
  // Both drivers answer at once where no latency is asked for; null-aio goes through the loop once,
  // so that it costs what a request costs whose completion arrives later.
  Task<Status> finish() {
    if (latency_.count() == 0 && descriptor().name == qapi::BlockdevDriver::null_co) [[likely]]
      return Task<Status>::ready(Status());
    return finish_later();
  }
  Task<Status> finish_later() {
    AioContext& context = *AioContext::current();
    if (latency_.count() != 0)
      co_await context.sleep_for(latency_);
    else
      co_await context.yield();
    co_return Status();
  }

  uint64_t size_ = 0;
  bool has_size_option_ = false;
  Duration latency_{0};
  bool read_zeroes_ = false;
};

std::unique_ptr<Driver> create(const DriverDescriptor& descriptor) {
  return std::make_unique<NullDriver>(descriptor);
}

}  // namespace

const DriverDescriptor kNullCoDriver{
    .name = qapi::BlockdevDriver::null_co, .is_protocol = true, .reopens = true, .create = create};
const DriverDescriptor kNullAioDriver{
    .name = qapi::BlockdevDriver::null_aio, .is_protocol = true, .reopens = true, .create = create};

}  // namespace strata
