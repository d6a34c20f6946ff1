// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/compress.h"

#include <algorithm>

#include "block/base/error.h"
#include "block/drivers/filter.h"

namespace strata {
namespace {

class CompressDriver final : public FilterDriver {
 public:
  using FilterDriver::FilterDriver;

  Task<void> open(OpenContext& context) override {
    const auto& options = context.branch<qapi::BlockdevOptionsGenericFormat>();
    co_await open_filtered(context, options.file);
    if (!below().driver().write_flags().has(WriteFlag::compressed))
      throw Error("Compression is not supported for underlying format: {}", below().format_name());
  }

  // Whole clusters arrive; the last one of a disk may reach over its end.
  Task<Status> pwritev(uint64_t offset, IoVector from, WriteFlags flags) override {
    uint64_t length = below().length();
    if (offset < length && from.size() > length - offset) from = from.slice(0, length - offset);
    return FilterDriver::pwritev(offset, from, flags | WriteFlag::compressed);
  }
  Task<Status> pwrite_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags) override {
    uint64_t length = below().length();
    if (offset < length) bytes = std::min(bytes, length - offset);
    return FilterDriver::pwrite_zeroes(offset, bytes, flags);
  }
  // A cluster is compressed as a whole: what changes a part of one is made a change of all of it.
  Limits limits(const Limits& of_children) const noexcept override {
    Limits limits = of_children;
    std::optional<ImageFacts> facts = below().driver().image_facts();
    if (facts && facts->cluster_size)
      limits.request_alignment = static_cast<uint32_t>(*facts->cluster_size);
    return limits;
  }
};

std::unique_ptr<Driver> create(const DriverDescriptor& descriptor) {
  return std::make_unique<CompressDriver>(descriptor);
}

}  // namespace

const DriverDescriptor kCompressDriver{
    .name = qapi::BlockdevDriver::compress, .is_filter = true, .create = create};

}  // namespace strata
