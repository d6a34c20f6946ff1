// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/io/write_common.h"

#include <cerrno>

#include "block/graph/layer.h"

namespace strata::io {
namespace {

void raise_to(std::atomic<uint64_t>& value, uint64_t at_least) noexcept {
  uint64_t current = value.load(std::memory_order_relaxed);
  while (current < at_least && !value.compare_exchange_weak(current, at_least)) {
  }
}

void grow_to(Node& node, uint64_t length) noexcept {
  raise_to(node.io().length, length);
  if (node.bitmaps().in_use()) node.bitmaps().resize(node.length());
}

}  // namespace

void announce_write(Node& node, ByteRange range) {
  uint64_t threshold = node.io().write_threshold.load(std::memory_order_relaxed);
  if (threshold == 0 || range.end() <= threshold) [[likely]]
    return;
  if (node.io().write_threshold.exchange(0) == 0) return;  // somebody else reports it
  node.layer().emit("BLOCK_WRITE_THRESHOLD", {{"node-name", node.name()},
                                              {"amount-exceeded", range.end() - threshold},
                                              {"write-threshold", threshold}});
}

void note_written(Node& node, ByteRange range, Status status) {
  NodeIo& io = node.io();
  if (!io.dirty.load(std::memory_order_relaxed)) io.dirty.store(true);
  if (!status.ok()) return;
  raise_to(io.highest_write, range.end());
  if (range.end() > io.length.load(std::memory_order_relaxed)) [[unlikely]]
    grow_to(node, align_up(range.end(), kSectorSize));
}

Status check_writable(const Edge& child, PermissionSet any_of) noexcept {
  const Node& node = child.node();
  if (!child.permissions().needed.has_any(any_of) || !node.is_writable())
    return Status::error(EPERM);
  return Status();
}

}  // namespace strata::io
