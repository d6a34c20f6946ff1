// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <algorithm>
#include <cstdint>

#include "block/io/block_status.h"
#include "tools/common/claims.h"

namespace strata::tools {

// As io::block_status_above(), but as far as it goes on like that and qemu-img sees. That the
// answer is there is left to be counted.
Task<Result<io::ChainStatus>> long_status_above(Node& top, Node* base, uint64_t offset,
                                                uint64_t bytes, Claims& claims);

// How far qemu-img sees at once of what is all of one kind. Strata sees farther, but what both show
// as progress are steps that end there.
class StatusStep {
 public:
  StatusStep() noexcept = default;
  // For what was decided by the first `depth` images of the chain from `top` down to `base`, which
  // is not asked; 0: by none of them.
  StatusStep(const Node& top, const Node* base, int depth) noexcept;

  // How much of it is left at `offset` of `top`.
  uint64_t left(uint64_t offset) const noexcept { return std::min(kMost, span_ - offset % span_); }

 private:
  static constexpr uint64_t kMost = INT32_MAX;

  uint64_t span_ = uint64_t{1} << 62;  // a power of two
};

}  // namespace strata::tools
