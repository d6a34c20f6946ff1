// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/compress.h"

#include <algorithm>

#include "block/base/error.h"
#include "block/graph/open.h"
#include "block/io/request.h"

namespace strata {
namespace {

class CompressDriver final : public Driver {
 public:
  using Driver::Driver;

  Task<void> open(OpenContext& context) override {
    const auto& options = context.branch<qapi::BlockdevOptionsGenericFormat>();
    file_ = co_await context.open_child(options.file, "file", kFilterRoles);
    const Driver& below = file_->node().driver();
    if (!below.write_flags().has(WriteFlag::compressed))
      throw Error("Compression is not supported for underlying format: {}",
                  below.descriptor().format_name());
  }

  Task<Status> preadv(uint64_t offset, IoVector into, ReadFlags flags) override {
    return io::preadv(*file_, offset, into, flags);
  }
  // Whole clusters arrive; the last one of a disk may reach over its end.
  Task<Status> pwritev(uint64_t offset, IoVector from, WriteFlags flags) override {
    uint64_t length = file_->node().length();
    if (offset < length && from.size() > length - offset) from = from.slice(0, length - offset);
    return io::pwritev(*file_, offset, from, flags | WriteFlag::compressed);
  }
  Task<Status> pwrite_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags) override {
    uint64_t length = file_->node().length();
    if (offset < length) bytes = std::min(bytes, length - offset);
    return io::pwrite_zeroes(*file_, offset, bytes, flags);
  }
  Task<Status> pdiscard(uint64_t offset, uint64_t bytes) override {
    return io::pdiscard(*file_, offset, bytes);
  }
  Task<Result<uint64_t>> length() override {
    return Task<Result<uint64_t>>::ready(file_->node().length());
  }

  // The layer of the node below does, or emulates, what is passed on.
  WriteFlags write_flags() const noexcept override {
    return {WriteFlag::fua, WriteFlag::unchanged, WriteFlag::serialising};
  }
  WriteFlags zero_flags() const noexcept override {
    return {WriteFlag::fua, WriteFlag::may_unmap, WriteFlag::no_fallback, WriteFlag::unchanged};
  }
  // A cluster is compressed as a whole: what changes a part of one is made a change of all of it.
  Limits limits(const Limits& of_children) const noexcept override {
    Limits limits = of_children;
    std::optional<ImageFacts> facts = file_->node().driver().image_facts();
    if (facts && facts->cluster_size)
      limits.request_alignment = static_cast<uint32_t>(*facts->cluster_size);
    return limits;
  }
  bool has_zero_init() const noexcept override { return file_->node().driver().has_zero_init(); }

 private:
  Edge* file_ = nullptr;
};

std::unique_ptr<Driver> create(const DriverDescriptor& descriptor) {
  return std::make_unique<CompressDriver>(descriptor);
}

}  // namespace

const DriverDescriptor kCompressDriver{
    .name = qapi::BlockdevDriver::compress, .is_filter = true, .create = create};

}  // namespace strata
