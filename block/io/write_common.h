// SPDX-License-Identifier: GPL-2.0-or-later
//
// What all ways of changing a node share.
#pragma once

#include "block/graph/node.h"

namespace strata::io {

// Before a write: reports one that passes the node's write threshold (BLOCK_WRITE_THRESHOLD), once.
void announce_write(Node& node, ByteRange range);

// After a write: the node needs flushing, may have grown, and has been written to that far.
void note_written(Node& node, ByteRange range, Status status);

// With `range` held for a write: what its bitmaps need before it, and after it.
inline bool needs_cover(const Node& node, ByteRange range) noexcept {
  return node.bitmaps().needs_cover(range);
}
inline void record(Node& node, ByteRange range, WriteFlags flags = {}) noexcept {
  if (!flags.has(WriteFlag::unchanged)) node.bitmaps().record(range);
}

// Whether `flags` asks for fua and the driver leaves that to a flush.
inline bool must_emulate_fua(const Node& node, WriteFlags flags, WriteFlags native) noexcept {
  return flags.has(WriteFlag::fua) && !native.has(WriteFlag::fua);
}

// Zeroes for a range of whole units that the caller holds. Honours fua only as far as the driver's
// write and zero flags do.
Task<Status> write_zeroes_aligned(Node& node, uint64_t offset, uint64_t bytes, WriteFlags flags);

// Data for a range of whole units that the caller holds. Detects zeroes; honours fua as far as the
// driver's write flags do.
Task<Status> write_aligned(Node& node, uint64_t offset, IoVector from, WriteFlags flags);

// Data for any range, with read-modify-write where it must be. Neither counted nor announced.
Task<Status> write_range(Node& node, uint64_t offset, IoVector from, WriteFlags flags);

// Whether the node may be changed at all now.
Status check_writable(const Edge& child, PermissionSet any_of) noexcept;

}  // namespace strata::io
