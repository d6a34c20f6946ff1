// SPDX-License-Identifier: GPL-2.0-or-later
//
// Where data lies, and where zeroes are.
#pragma once

#include "block/graph/driver.h"
#include "block/graph/node.h"

namespace strata::io {

// What `node` alone knows of [offset, offset + bytes), for a first part of it (status.bytes; 0 at
// the end of the node). See request.h for the rules.
Task<Result<BlockStatus>> block_status(Node& node, uint64_t offset, uint64_t bytes,
                                       StatusWant want = StatusWant::mapping);

// The node that is asked where `node` does not know: its backing file, or what a filter filters.
// Null where there is none.
Node* next_in_chain(const Node& node) noexcept;

struct ChainStatus {
  BlockStatus status;
  int depth = 0;  // 1: decided by `top` itself; 0: by none of those asked
};

// The same for the chain from `top` down to `base`, which is asked too if `include_base`; null: the
// whole chain.
Task<Result<ChainStatus>> block_status_above(Node& top, Node* base, bool include_base,
                                             uint64_t offset, uint64_t bytes,
                                             StatusWant want = StatusWant::mapping);

}  // namespace strata::io
