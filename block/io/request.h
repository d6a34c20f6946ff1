// SPDX-License-Identifier: GPL-2.0-or-later
//
// Requests to a node: what happens between a parent and the node's driver. Bounds, alignment,
// splitting, read-modify-write, zero detection, emulation of what the driver cannot do, counting.
//
// Every function here runs in any AioContext and ends in the one it started in; offsets and lengths
// are bytes. Memory belongs to the caller and stays until the task ends. Errors are errnos. There
// is no cancellation: what has been handed to the kernel is awaited. The caller holds a pass of a
// gate above the node (a Backend sees to that; drivers run inside their parents' requests).
#pragma once

#include "block/graph/driver.h"
#include "block/graph/edge.h"
#include "block/graph/node.h"

namespace strata::io {

// Past the end of the child, reads give zeroes.
Task<Status> preadv(Edge& child, uint64_t offset, IoVector into, ReadFlags flags = {});
// Needs the write permission, and past the end the resize permission, on the edge.
Task<Status> pwritev(Edge& child, uint64_t offset, IoVector from, WriteFlags flags = {});
Task<Status> pwrite_zeroes(Edge& child, uint64_t offset, uint64_t bytes, WriteFlags flags = {});
// Advice: succeeds where the driver cannot, or the node's options ignore it.
Task<Status> pdiscard(Edge& child, uint64_t offset, uint64_t bytes);
// All writes that ended before are on the medium when it ends.
Task<Status> flush(Node& node);
// Throws Error.
Task<void> truncate(Edge& child, uint64_t size, TruncateOptions options = {});

// Convenience for drivers: one contiguous buffer.
inline Task<Status> pread(Edge& child, uint64_t offset, void* data, size_t size) {
  return preadv(child, offset, IoVector::buffer(data, size));
}
inline Task<Status> pwrite(Edge& child, uint64_t offset, const void* data, size_t size,
                           WriteFlags flags = {}) {
  return pwritev(child, offset, IoVector::buffer(data, size), flags);
}

}  // namespace strata::io
