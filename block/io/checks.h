// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cerrno>

#include "block/base/result.h"
#include "block/graph/node.h"

namespace strata::io {

// Whether a range is one that can exist at all: nothing wraps, nothing is longer than an image may
// be.
inline Status check_range(uint64_t offset, uint64_t bytes) noexcept {
  if (offset > kMaxLength || bytes > kMaxLength - offset) return Status::error(EIO);
  return Status();
}

// The largest piece of a request that a driver takes at once; a multiple of the request alignment.
inline uint64_t piece_limit(const Limits& limits, uint64_t of_driver) noexcept {
  uint64_t limit = of_driver != 0 ? of_driver : kMaxRequestBytes;
  if (limit > kMaxRequestBytes) limit = kMaxRequestBytes;
  limit -= limit % limits.request_alignment;
  return limit != 0 ? limit : limits.request_alignment;
}

// The driver's memory rules concern who hands the memory to the kernel.
inline bool memory_fits(const Node& node, IoVector memory) noexcept {
  const Limits& limits = node.io().limits;
  return !node.descriptor().is_protocol ||
         memory.is_aligned(limits.min_memory_alignment, limits.request_alignment);
}

}  // namespace strata::io
