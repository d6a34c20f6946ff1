// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "block/base/aligned_buffer.h"
#include "block/io/checks.h"
#include "block/io/debug_event.h"
#include "block/io/request.h"
#include "block/io/write_common.h"

namespace strata::io {
namespace {

constexpr size_t kZeroBufferSize = 1024 * 1024;

// Where the driver has no better way: zero bytes, written piece by piece.
Task<Status> write_zero_bytes(Node& node, uint64_t offset, uint64_t bytes, WriteFlags flags) {
  uint64_t limit = piece_limit(node.io().limits, node.io().limits.max_transfer);
  uint64_t size = std::min({bytes, limit, uint64_t{kZeroBufferSize}});
  AlignedBuffer zeroes(size);
  if (!zeroes) co_return Status::error(ENOMEM);
  std::memset(zeroes.data(), 0, size);
  flags &= node.driver().write_flags();
  for (uint64_t done = 0; done < bytes;) {
    uint64_t piece = std::min(bytes - done, size);
    Status status = co_await node.driver().pwritev(offset + done,
                                                   IoVector::buffer(zeroes.data(), piece), flags);
    if (!status.ok()) co_return status;
    done += piece;
  }
  co_return Status();
}

// The next piece of [offset, offset + bytes) that goes to the driver at once: up to the next
// boundary of its preferred unit, then whole units, then the rest.
uint64_t next_piece(uint64_t offset, uint64_t bytes, uint64_t unit, uint64_t limit) noexcept {
  uint64_t into_unit = offset % unit;
  if (into_unit != 0) return std::min(bytes, unit - into_unit);
  if (bytes > unit) bytes -= bytes % unit;
  return std::min(bytes, limit);
}

// Splits a range into what a driver likes; the larger unit may be no power of two.
struct Pieces {
  uint64_t unit;
  uint64_t limit;
  Pieces(const Limits& limits, uint64_t alignment, uint64_t of_driver) noexcept
      : unit(std::max<uint64_t>(alignment, limits.request_alignment)),
        limit(piece_limit(limits, of_driver)) {
    if (limit > unit) limit -= limit % unit;
  }
  uint64_t next(uint64_t offset, uint64_t bytes) const noexcept {
    return std::min(next_piece(offset, bytes, unit, limit), limit);
  }
};

Task<Status> zero_recorded(Node& node, ByteRange range, WriteFlags flags) {
  Status status;
  if (needs_cover(node, range)) [[unlikely]]
    status = co_await node.bitmaps().cover(range);
  if (status.ok()) status = co_await write_zeroes_aligned(node, range.offset, range.bytes, flags);
  record(node, range, flags);
  co_return status;
}

// With whole units held.
Task<Status> zero_held(Node& node, ByteRange range, WriteFlags flags) {
  if (node.bitmaps().in_use()) return zero_recorded(node, range, flags);
  return write_zeroes_aligned(node, range.offset, range.bytes, flags);
}

// The unaligned ends are written as data, the middle as zeroes.
Task<Status> write_zeroes_unaligned(Node& node, ByteRange range, WriteFlags flags) {
  uint32_t alignment = node.io().limits.request_alignment;
  AlignedBuffer zeroes(alignment);
  if (!zeroes) co_return Status::error(ENOMEM);
  std::memset(zeroes.data(), 0, alignment);
  auto write_end = [&](uint64_t offset, uint64_t bytes) {
    return write_range(node, offset, IoVector::buffer(zeroes.data(), bytes), flags);
  };
  uint64_t into_unit = range.offset % alignment;
  if (into_unit != 0) {
    uint64_t head = std::min(range.bytes, alignment - into_unit);
    Status status = co_await write_end(range.offset, head);
    if (!status.ok()) co_return status;
    range = {range.offset + head, range.bytes - head};
  }
  uint64_t tail = range.bytes % alignment;
  if (range.bytes != tail) {
    ByteRange middle{range.offset, range.bytes - tail};
    RangeLock::Hold hold(node.io().writes, middle, RangeLock::Mode::shared);
    co_await hold.acquire();
    Status status = co_await zero_held(node, middle, flags);
    if (!status.ok()) co_return status;
  }
  if (tail != 0) co_return co_await write_end(range.end() - tail, tail);
  co_return Status();
}

Task<Status> zero_counted(Node& node, ByteRange range, WriteFlags flags) {
  IoStats::Request request(node.io().stats, IoKind::zeroes, range.bytes);
  if (!node.options().discard_unmap) flags = flags.without(WriteFlag::may_unmap);
  announce_write(node, range);
  Status status;
  if (is_aligned(range.offset | range.bytes, node.io().limits.request_alignment)) {
    RangeLock::Hold hold(node.io().writes, range, RangeLock::Mode::shared);
    co_await hold.acquire();
    status = co_await zero_held(node, range, flags);
  } else {
    status = co_await write_zeroes_unaligned(node, range, flags);
  }
  note_written(node, range, status);
  WriteFlags native = node.driver().write_flags() & node.driver().zero_flags();
  if (status.ok() && must_emulate_fua(node, flags, native)) status = co_await flush(node);
  request.done(status.ok());
  co_return status;
}

Task<Status> discard_counted(Node& node, ByteRange range) {
  IoStats::Request request(node.io().stats, IoKind::discard, range.bytes);
  const Limits& limits = node.io().limits;
  Pieces pieces(limits, limits.pdiscard_alignment, limits.max_pdiscard);
  RangeLock::Hold hold(node.io().writes, range, RangeLock::Mode::shared);
  co_await hold.acquire();
  Status status;
  if (needs_cover(node, range)) [[unlikely]]
    status = co_await node.bitmaps().cover(range);
  for (uint64_t done = 0; status.ok() && done < range.bytes;) {
    uint64_t offset = range.offset + done;
    uint64_t piece = pieces.next(offset, range.bytes - done);
    // Pieces smaller than the unit go down too: some devices add them up.
    status = co_await node.driver().pdiscard(offset, piece);
    if (status.error_number() == ENOTSUP) status = Status();
    if (!status.ok()) break;
    done += piece;
  }
  record(node, range);
  note_written(node, {range.offset, 0}, status);
  request.done(status.ok());
  co_return status;
}

}  // namespace

Task<Status> write_zeroes_aligned(Node& node, uint64_t offset, uint64_t bytes, WriteFlags flags) {
  const Limits& limits = node.io().limits;
  Pieces pieces(limits, limits.pwrite_zeroes_alignment, limits.max_pwrite_zeroes);
  WriteFlags driver_flags = flags & node.driver().zero_flags();
  co_await debug_event(node, qapi::BlkdebugEvent::pwritev_zero);
  for (uint64_t done = 0; done < bytes;) {
    uint64_t piece = pieces.next(offset + done, bytes - done);
    Status status = co_await node.driver().pwrite_zeroes(offset + done, piece, driver_flags);
    if (status.error_number() == ENOTSUP && !flags.has(WriteFlag::no_fallback))
      status = co_await write_zero_bytes(node, offset + done, piece, flags);
    if (!status.ok()) co_return status;
    done += piece;
  }
  co_await debug_event(node, qapi::BlkdebugEvent::pwritev_done);
  co_return Status();
}

Task<Status> pwrite_zeroes(Edge& child, uint64_t offset, uint64_t bytes, WriteFlags flags) {
  Status status = check_range(offset, bytes);
  if (status.ok()) status = check_writable(child, {Permission::write, Permission::write_unchanged});
  if (!status.ok() || bytes == 0) return Task<Status>::ready(status);
  return zero_counted(child.node(), {offset, bytes}, flags);
}

Task<Status> pdiscard(Edge& child, uint64_t offset, uint64_t bytes) {
  Status status = check_range(offset, bytes);
  if (status.ok()) status = check_writable(child, Permission::write);
  if (!status.ok() || bytes == 0) return Task<Status>::ready(status);
  if (!child.node().options().discard_unmap) return Task<Status>::ready(Status());
  return discard_counted(child.node(), {offset, bytes});
}

}  // namespace strata::io
