// SPDX-License-Identifier: GPL-2.0-or-later
#include <cerrno>

#include "block/io/checks.h"
#include "block/io/debug_event.h"
#include "block/io/padding.h"
#include "block/io/request.h"
#include "block/io/write_common.h"

namespace strata::io {
namespace {

using qapi::BlkdebugEvent;

constexpr auto kDetectOff = qapi::BlockdevDetectZeroesOptions::off;
constexpr auto kDetectAndUnmap = qapi::BlockdevDetectZeroesOptions::unmap;

WriteFlags native_flags(const Node& node) noexcept {
  WriteFlags flags = node.driver().write_flags();
  return node.options().detect_zeroes == kDetectOff ? flags : flags & node.driver().zero_flags();
}

RangeLock::Mode lock_mode(WriteFlags flags) noexcept {
  return flags.has(WriteFlag::serialising) ? RangeLock::Mode::exclusive : RangeLock::Mode::shared;
}

Task<Status> write_bounced(Node& node, uint64_t offset, IoVector from, WriteFlags flags) {
  AlignedBuffer bounce(from.size());
  if (!bounce) co_return Status::error(ENOMEM);
  from.copy_to(bounce.data());
  co_return co_await node.driver().pwritev(offset, IoVector::buffer(bounce.data(), from.size()),
                                           flags);
}

Task<Status> write_piece(Node& node, uint64_t offset, IoVector from, WriteFlags flags) {
  if (memory_fits(node, from)) [[likely]]
    return node.driver().pwritev(offset, from, flags);
  return write_bounced(node, offset, from, flags);
}

Task<Status> write_in_pieces(Node& node, uint64_t offset, IoVector from, WriteFlags flags,
                             uint64_t limit) {
  for (size_t done = 0; done < from.size();) {
    size_t size = std::min<size_t>(from.size() - done, limit);
    Status status = co_await write_piece(node, offset + done, from.slice(done, size), flags);
    if (!status.ok()) co_return status;
    done += size;
  }
  co_return Status();
}

Task<Status> write_with_events(Node& node, uint64_t offset, IoVector from, WriteFlags flags,
                               uint64_t limit) {
  co_await debug_event(node, BlkdebugEvent::pwritev);
  Status status = co_await write_in_pieces(node, offset, from, flags, limit);
  co_await debug_event(node, BlkdebugEvent::pwritev_done);
  co_return status;
}

}  // namespace

Task<Status> write_aligned(Node& node, uint64_t offset, IoVector from, WriteFlags flags) {
  auto detect = node.options().detect_zeroes;
  if (detect != kDetectOff && from.is_zero()) [[unlikely]] {
    if (detect == kDetectAndUnmap) flags |= WriteFlag::may_unmap;
    return write_zeroes_aligned(node, offset, from.size(), flags);
  }
  flags &= node.driver().write_flags();
  uint64_t limit = piece_limit(node.io().limits, node.io().limits.max_transfer);
  if (node.io().hears_events) [[unlikely]]
    return write_with_events(node, offset, from, flags, limit);
  if (from.size() <= limit) [[likely]]
    return write_piece(node, offset, from, flags);
  return write_in_pieces(node, offset, from, flags, limit);
}

namespace {

Task<Status> fill_unit(Node& node, uint64_t offset, IoVector unit, BlkdebugEvent before,
                       BlkdebugEvent after) {
  if (unit.empty()) co_return Status();
  co_await debug_event(node, before);
  Status status = co_await node.driver().preadv(offset, unit, {});
  if (status.ok()) co_await debug_event(node, after);
  co_return status;
}

Task<Status> read_modify_write(Node& node, uint64_t offset, IoVector from, WriteFlags flags) {
  uint32_t alignment = node.io().limits.request_alignment;
  Padding padding({offset, from.size()}, from, alignment);
  if (!padding.ok()) co_return Status::error(ENOMEM);
  RangeLock::Hold hold(node.io().writes, padding.aligned(), RangeLock::Mode::exclusive);
  co_await hold.acquire();
  ByteRange range{offset, from.size()};
  Status status;
  if (needs_cover(node, range)) status = co_await node.bitmaps().cover(range);
  if (status.ok())
    status =
        co_await fill_unit(node, padding.aligned().offset, padding.head_unit(),
                           BlkdebugEvent::pwritev_rmw_head, BlkdebugEvent::pwritev_rmw_after_head);
  if (!status.ok()) co_return status;
  status =
      co_await fill_unit(node, padding.aligned().end() - alignment, padding.tail_unit(),
                         BlkdebugEvent::pwritev_rmw_tail, BlkdebugEvent::pwritev_rmw_after_tail);
  if (!status.ok()) co_return status;
  status = co_await write_aligned(node, padding.aligned().offset, padding.memory(), flags);
  record(node, range, flags);
  co_return status;
}

// The same for whole units.
Task<Status> write_held(Node& node, uint64_t offset, IoVector from, WriteFlags flags) {
  ByteRange range{offset, from.size()};
  RangeLock::Hold hold(node.io().writes, range, lock_mode(flags));
  co_await hold.acquire();
  Status status;
  if (needs_cover(node, range)) [[unlikely]]
    status = co_await node.bitmaps().cover(range);
  if (status.ok()) status = co_await write_aligned(node, offset, from, flags);
  record(node, range, flags);
  co_return status;
}

Task<Status> write_counted(Node& node, uint64_t offset, IoVector from, WriteFlags flags) {
  IoStats::Request request(node.io().stats, IoKind::write, from.size());
  ByteRange range{offset, from.size()};
  announce_write(node, range);
  Status status;
  if (is_aligned(offset | from.size(), node.io().limits.request_alignment)) [[likely]] {
    RangeLock::Hold hold(node.io().writes, range, lock_mode(flags));
    co_await hold.acquire();
    if (needs_cover(node, range)) [[unlikely]]
      status = co_await node.bitmaps().cover(range);
    if (status.ok()) status = co_await write_aligned(node, offset, from, flags);
    record(node, range, flags);
  } else {
    status = co_await read_modify_write(node, offset, from, flags);
  }
  note_written(node, range, status);
  if (status.ok() && must_emulate_fua(node, flags, native_flags(node)))
    status = co_await flush(node);
  request.done(status.ok());
  co_return status;
}

}  // namespace

Task<Status> write_range(Node& node, uint64_t offset, IoVector from, WriteFlags flags) {
  if (!is_aligned(offset | from.size(), node.io().limits.request_alignment))
    return read_modify_write(node, offset, from, flags);
  return write_held(node, offset, from, flags);
}

Task<Status> pwritev(Edge& child, uint64_t offset, IoVector from, WriteFlags flags) {
  Status status = check_range(offset, from.size());
  if (status.ok()) status = check_writable(child, {Permission::write, Permission::write_unchanged});
  if (!status.ok() || from.empty()) [[unlikely]]
    return Task<Status>::ready(status);
  return write_counted(child.node(), offset, from, flags);
}

}  // namespace strata::io
