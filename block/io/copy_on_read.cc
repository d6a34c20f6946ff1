// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/io/copy_on_read.h"

#include <algorithm>
#include <bit>
#include <cerrno>

#include "block/base/aligned_buffer.h"
#include "block/io/block_status.h"
#include "block/io/checks.h"
#include "block/io/debug_event.h"
#include "block/io/write_common.h"

namespace strata::io {
namespace {

constexpr uint64_t kMaxCopy = 1 << 20;

// The first part of `range` that the node does not hold; empty if there is none.
Task<Result<ByteRange>> find_hole(Node& node, ByteRange range) {
  while (range.bytes != 0) {
    auto status = co_await block_status(node, range.offset, range.bytes, StatusWant::contents);
    if (!status) co_return status.status();
    if (status->bytes == 0) break;
    uint64_t bytes = std::min(status->bytes, range.bytes);
    if (!status->flags.has(StatusFlag::allocated)) co_return ByteRange{range.offset, bytes};
    range = {range.offset + bytes, range.bytes - bytes};
  }
  co_return ByteRange{};
}

Task<Status> copy_up(Node& node, ByteRange range, AlignedBuffer& buffer) {
  IoVector memory = IoVector::buffer(buffer.data(), range.bytes);
  Status status = co_await node.driver().preadv(range.offset, memory, {});
  if (!status.ok()) co_return status;
  co_await debug_event(node, qapi::BlkdebugEvent::cor_write);
  if (memory.is_zero())
    status = co_await write_zeroes_aligned(node, range.offset, range.bytes, WriteFlag::unchanged);
  else
    status = co_await write_aligned(node, range.offset, memory, WriteFlag::unchanged);
  note_written(node, range, status);
  co_return status;
}

// `range` is held, and made of whole units.
Task<Status> fill_holes(Node& node, ByteRange range, uint64_t unit) {
  const uint64_t piece = std::max(
      unit, std::min(kMaxCopy, piece_limit(node.io().limits, node.io().limits.max_transfer)));
  AlignedBuffer buffer(std::min(range.bytes, piece));
  if (!buffer) co_return Status::error(ENOMEM);
  while (range.bytes != 0) {
    Result<ByteRange> hole = co_await find_hole(node, range);
    if (!hole) co_return hole.status();
    if (hole->bytes == 0) break;
    hole->bytes = std::min(hole->bytes, buffer.size());
    Status status = co_await copy_up(node, *hole, buffer);
    if (!status.ok()) co_return status;
    range = {hole->end(), range.end() - hole->end()};
  }
  co_return Status();
}

}  // namespace

Task<Status> populate(Edge& child, uint64_t offset, uint64_t bytes) {
  Node& node = child.node();
  if (node.io().inactive) co_return Status();  // another process may be writing there
  const Limits& limits = node.io().limits;
  uint64_t unit = limits.request_alignment;
  if (std::has_single_bit(limits.pwrite_zeroes_alignment))
    unit = std::max<uint64_t>(unit, limits.pwrite_zeroes_alignment);
  uint64_t end =
      std::min(align_up(offset + bytes, unit), align_up(node.length(), limits.request_alignment));
  uint64_t start = align_down(offset, unit);
  if (start >= end) co_return Status();
  ByteRange range{start, end - start};
  Result<ByteRange> hole = co_await find_hole(node, range);
  if (!hole) co_return hole.status();
  if (hole->bytes == 0) co_return Status();
  Status status = check_writable(child, {Permission::write, Permission::write_unchanged});
  if (!status.ok()) co_return status;
  // Nobody writes there between the look and the copy.
  RangeLock::Hold hold(node.io().writes, range, RangeLock::Mode::exclusive);
  co_await hold.acquire();
  co_return co_await fill_holes(node, range, unit);
}

}  // namespace strata::io
