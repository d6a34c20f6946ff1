// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>

#include "block/graph/driver.h"
#include "block/graph/open.h"

namespace strata {

// What filters have in common: one child, to which every request goes as it is. A filter overrides
// what it does otherwise.
class FilterDriver : public Driver {
 public:
  using Driver::Driver;

  Task<Status> preadv(uint64_t offset, IoVector into, ReadFlags flags) override;
  Task<Status> pwritev(uint64_t offset, IoVector from, WriteFlags flags) override;
  Task<Status> pwrite_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags) override;
  Task<Status> pdiscard(uint64_t offset, uint64_t bytes) override;
  Task<Result<uint64_t>> length() override;

  // The layer of the node below does, or emulates, what is passed on.
  WriteFlags write_flags() const noexcept override {
    return {WriteFlag::fua, WriteFlag::unchanged, WriteFlag::serialising};
  }
  WriteFlags zero_flags() const noexcept override {
    return {WriteFlag::fua, WriteFlag::may_unmap, WriteFlag::no_fallback, WriteFlag::unchanged};
  }
  bool has_zero_init() const noexcept override { return below().driver().has_zero_init(); }

 protected:
  // Throws Error.
  Task<void> open_filtered(OpenContext& context, const qapi::BlockdevRef& child,
                           std::string name = "file");
  Edge& child() const noexcept { return *child_; }
  Node& below() const noexcept { return child_->node(); }

 private:
  Edge* child_ = nullptr;
};

}  // namespace strata
