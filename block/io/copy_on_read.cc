// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/io/copy_on_read.h"

#include <algorithm>
#include <bit>
#include <cerrno>

#include "block/base/aligned_buffer.h"
#include "block/io/block_status.h"
#include "block/io/checks.h"
#include "block/io/debug_event.h"
#include "block/io/read_common.h"
#include "block/io/write_common.h"

namespace strata::io {
namespace {

constexpr uint64_t kMaxCopy = 1 << 20;

// What is read on the way: the bytes from `offset` on, into `memory`; nothing where that is empty.
struct Wanted {
  uint64_t offset = 0;
  IoVector memory;

  ByteRange part_in(ByteRange other) const noexcept {
    uint64_t start = std::max(offset, other.offset);
    uint64_t end = std::min(offset + memory.size(), other.end());
    return {start, end > start ? end - start : 0};
  }
  IoVector memory_of(ByteRange part) const noexcept {
    return memory.slice(part.offset - offset, part.bytes);
  }
};

// A range as far as one answer about it goes.
struct Extent {
  ByteRange range;  // empty: behind the end
  bool is_hole = false;
};

Task<Result<Extent>> first_extent(Node& node, ByteRange range) {
  auto status = co_await block_status(node, range.offset, range.bytes, StatusWant::contents);
  if (!status) co_return status.status();
  Extent extent;
  extent.range = {range.offset, std::min(status->bytes, range.bytes)};
  extent.is_hole = !status->flags.has(StatusFlag::allocated);
  co_return extent;
}

Task<Result<bool>> has_hole(Node& node, ByteRange range) {
  while (range.bytes != 0) {
    Result<Extent> extent = co_await first_extent(node, range);
    if (!extent) co_return extent.status();
    if (extent->range.bytes == 0) break;
    if (extent->is_hole) co_return true;
    range = {extent->range.end(), range.end() - extent->range.end()};
  }
  co_return false;
}

// A range that is populated, in pieces: memory for one of them is all that it takes.
class Population {
 public:
  Population(Node& node, ByteRange range, uint64_t unit, const Wanted& wanted) noexcept
      : node_(node), left_(range), wanted_(wanted) {
    const Limits& limits = node.io().limits;
    uint64_t piece = std::max(unit, std::min(kMaxCopy, piece_limit(limits, limits.max_transfer)));
    buffer_ = AlignedBuffer(std::min(range.bytes, piece));
  }

  // The range is held, and made of whole units.
  Task<Status> run() {
    if (!buffer_) co_return Status::error(ENOMEM);
    while (left_.bytes != 0) {
      Result<Extent> extent = co_await first_extent(node_, left_);
      if (!extent) co_return extent.status();
      ByteRange piece = extent->range;
      if (piece.bytes == 0) break;
      if (extent->is_hole) piece.bytes = std::min<uint64_t>(piece.bytes, buffer_.size());
      Status status = co_await (extent->is_hole ? copy_up(piece) : read(wanted_.part_in(piece)));
      if (!status.ok()) co_return status;
      left_ = {piece.end(), left_.end() - piece.end()};
    }
    // Zeroes, where the request goes on behind the end.
    co_return co_await read(wanted_.part_in({left_.offset, UINT64_MAX - left_.offset}));
  }

 private:
  Task<Status> read(ByteRange part) {
    if (part.bytes == 0) return Task<Status>::ready(Status());
    return read_range(node_, part.offset, wanted_.memory_of(part));
  }

  Task<Status> copy_up(ByteRange piece) {
    IoVector memory = IoVector::buffer(buffer_.data(), piece.bytes);
    Status status = co_await node_.driver().preadv(piece.offset, memory, {});
    if (!status.ok()) co_return status;
    co_await debug_event(node_, qapi::BlkdebugEvent::cor_write);
    if (memory.is_zero())
      status =
          co_await write_zeroes_aligned(node_, piece.offset, piece.bytes, WriteFlag::unchanged);
    else
      status = co_await write_aligned(node_, piece.offset, memory, WriteFlag::unchanged);
    note_written(node_, piece, status);
    ByteRange part = wanted_.part_in(piece);
    if (status.ok() && part.bytes != 0)
      wanted_.memory_of(part).copy_from(buffer_.data() + (part.offset - piece.offset));
    co_return status;
  }

  Node& node_;
  ByteRange left_;
  Wanted wanted_;
  AlignedBuffer buffer_;
};

// The units that `asked` touches, as far as the node goes.
ByteRange whole_units(const Node& node, ByteRange asked, uint64_t unit) noexcept {
  uint64_t start = align_down(asked.offset, unit);
  uint64_t end = std::min(align_up(asked.end(), unit),
                          align_up(node.length(), node.io().limits.request_alignment));
  return {start, end > start ? end - start : 0};
}

uint64_t unit_of(const Limits& limits) noexcept {
  uint64_t unit = limits.request_alignment;
  if (std::has_single_bit(limits.pwrite_zeroes_alignment))
    unit = std::max<uint64_t>(unit, limits.pwrite_zeroes_alignment);
  return unit;
}

Task<Status> populate_range(Edge& child, ByteRange asked, Wanted wanted) {
  Node& node = child.node();
  uint64_t unit = unit_of(node.io().limits);
  ByteRange range = whole_units(node, asked, unit);
  // While it is inactive another process may be writing there.
  Result<bool> hole = node.io().inactive ? Result<bool>(false) : co_await has_hole(node, range);
  if (!hole) co_return hole.status();
  if (!*hole) {
    if (wanted.memory.empty()) co_return Status();
    co_return co_await read_range(node, wanted.offset, wanted.memory);
  }
  Status status = check_writable(child, {Permission::write, Permission::write_unchanged});
  if (!status.ok()) co_return status;
  // Nobody writes there between the look and the copy.
  RangeLock::Hold hold(node.io().writes, range, RangeLock::Mode::exclusive);
  co_await hold.acquire();
  Population population(node, range, unit, wanted);
  co_return co_await population.run();
}

}  // namespace

Task<Status> populate(Edge& child, uint64_t offset, uint64_t bytes) {
  return populate_range(child, {offset, bytes}, {});
}

Task<Status> read_and_populate(Edge& child, uint64_t offset, IoVector into) {
  return populate_range(child, {offset, into.size()}, {offset, into});
}

}  // namespace strata::io
