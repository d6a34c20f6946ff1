// SPDX-License-Identifier: GPL-2.0-or-later
//
// What is done for each command. The texts of errors are QEMU's.
#include <algorithm>
#include <cerrno>

#include "block/base/error.h"
#include "block/export/nbd/connection.h"
#include "block/export/nbd/export.h"
#include "block/io/backend.h"
#include "block/nbd/extents.h"

namespace strata::nbd_export {
namespace {

using nbd::Command;
using nbd::Request;

constexpr size_t kStatusBytes = 64 * 1024;
// Below this length, a read costs less than asking the file system where its holes are.
constexpr uint64_t kHolesWorthFinding = 64 * 1024;
// Lookups for one context of one BLOCK_STATUS. An answer may be shorter than the question, and a
// client must not keep us busy for minutes with one request.
constexpr int kMostLookups = 16 * 1024;

WriteFlags write_flags(const Request& request) noexcept {
  WriteFlags flags;
  if ((request.flags & nbd::kCmdFua) != 0) flags |= WriteFlag::fua;
  if (request.command != Command::write_zeroes) return flags;
  if ((request.flags & nbd::kCmdNoHole) == 0) flags |= WriteFlag::may_unmap;
  if ((request.flags & nbd::kCmdFastZero) != 0) flags |= WriteFlag::no_fallback;
  return flags;
}

Task<Status> discard(Backend& backend, Request request, bool fua) {
  Status status = co_await backend.pdiscard(request.offset, request.length);
  if (status.ok() && fua) status = co_await backend.flush();
  co_return status;
}

std::string_view failure_text(Command command) noexcept {
  switch (command) {
    case Command::read:
      return "reading from file failed";
    case Command::flush:
      return "flush failed";
    case Command::trim:
      return "discard failed";
    case Command::cache:
      return "caching data failed";
    case Command::block_status:
      return "can't get block status";
    default:
      return "writing to file failed";
  }
}

// Finding the next change costs what lies between, so that the list is as long as it gets. Behind
// the end of a bitmap, which may be that of another node, nothing is dirty.
void list_dirty(const DirtyBitmap& bitmap, const Request& request, nbd::ExtentList& list) noexcept {
  uint64_t end = request.offset + request.length;
  uint64_t recorded = std::min(end, bitmap.size());
  uint64_t offset = request.offset;
  bool more = true;
  while (more && offset < recorded) {
    auto [bytes, dirty] = bitmap.extent({offset, recorded - offset});
    more = list.add({.length = bytes, .flags = dirty ? nbd::kStateDirty : 0});
    offset += bytes;
  }
  if (more && offset < end) list.add({.length = end - offset, .flags = 0});
}

// What a metadata context says about a run of blocks.
uint64_t status_flags(uint32_t context, const io::ChainStatus& found) noexcept {
  if (context == nbd::kAllocationDepthId) return static_cast<uint64_t>(found.depth);
  uint64_t flags = 0;
  if (!found.status.flags.has(StatusFlag::data)) flags |= nbd::kStateHole;
  if (found.status.flags.has(StatusFlag::zero)) flags |= nbd::kStateZero;
  return flags;
}

}  // namespace

Task<void> Connection::serve(Slot& slot) {
  switch (slot.request.command) {
    case Command::read:
      return read(slot);
    case Command::block_status:
      return block_status(slot);
    default:
      return change(slot);
  }
}

// What is answered with success or an error alone.
Task<void> Connection::change(Slot& slot) {
  const Request& request = slot.request;
  Backend& backend = export_.backend();
  Status status;
  switch (request.command) {
    case Command::write:
      status = co_await backend.pwritev(request.offset,
                                        IoVector::buffer(slot.buffer.data(), request.length),
                                        write_flags(request));
      break;
    case Command::write_zeroes:
      status = co_await backend.pwrite_zeroes(request.offset, request.length, write_flags(request));
      break;
    case Command::trim:
      status = co_await discard(backend, request, (request.flags & nbd::kCmdFua) != 0);
      break;
    case Command::flush:
      status = co_await backend.flush();
      break;
    case Command::cache:
      status = co_await backend.prefetch(request.offset, request.length);
      break;
    default:
      status = Status::error(EINVAL);
      break;  // refused before
  }
  if (!status) co_return fail(slot, status.error_number(), failure_text(request.command));
  slot.reply.set_success(terms_.mode, request);
  finish(slot);
}

Task<void> Connection::read(Slot& slot) {
  const Request& request = slot.request;
  if (request.length == 0) {
    slot.reply.set_success(terms_.mode, request);
    co_return finish(slot);
  }
  bool in_pieces = terms_.mode != nbd::ReplyMode::simple && (request.flags & nbd::kCmdDf) == 0 &&
                   (request.length >= kHolesWorthFinding ||
                    export_.backend().knows_zeroes(request.offset, request.length));
  if (in_pieces) {
    Status status = co_await find_pieces(slot);
    if (!status) {
      co_return fail(slot, status.error_number(),
                     "unable to check for holes: " + Error::describe_errno(status.error_number()));
    }
  }
  bool whole = slot.pieces.empty();
  Status status = co_await (whole ? read_whole(slot) : read_pieces(slot));
  if (!status) co_return fail(slot, status.error_number(), failure_text(Command::read));
  if (whole) {
    slot.reply.set_data(terms_.mode, request, slot.buffer.data());
  } else if (!slot.reply.set_pieces(terms_.mode, request, slot.pieces, slot.buffer.data(), pool_)) {
    co_return fail(slot, ENOMEM, failure_text(Command::read));
  }
  finish(slot);
}

Task<Status> Connection::read_whole(Slot& slot) {
  size_t length = slot.request.length;
  slot.buffer = pool_.get(length);
  if (!slot.buffer) return Task<Status>::ready(Status::error(ENOMEM));
  return export_.backend().preadv(slot.request.offset,
                                  IoVector::buffer(slot.buffer.data(), length));
}

// The buffer is as long as the request, so that each piece keeps its alignment.
Task<Status> Connection::read_pieces(Slot& slot) {
  bool has_data = std::any_of(slot.pieces.begin(), slot.pieces.end(),
                              [](const Piece& piece) { return !piece.hole; });
  if (!has_data) co_return Status();
  slot.buffer = pool_.get(slot.request.length);
  if (!slot.buffer) co_return Status::error(ENOMEM);
  for (const Piece& piece : slot.pieces) {
    if (piece.hole) continue;
    std::byte* to = slot.buffer.data() + (piece.offset - slot.request.offset);
    Status status =
        co_await export_.backend().preadv(piece.offset, IoVector::buffer(to, piece.length));
    if (!status) co_return status;
  }
  co_return Status();
}

// Splits the request into data and holes; leaves slot.pieces empty where all of it is data.
Task<Status> Connection::find_pieces(Slot& slot) {
  const uint64_t end = slot.request.offset + slot.request.length;
  uint64_t offset = slot.request.offset;
  const StatusWant want =
      slot.request.length >= kHolesWorthFinding ? StatusWant::mapping : StatusWant::contents;
  while (offset < end) {
    bool hole = false;
    uint64_t bytes = end - offset;
    if (slot.pieces.size() + 1 < Reply::kMostPieces) {
      auto found = co_await export_.backend().block_status(offset, bytes, want);
      if (!found) co_return found.status();
      hole = found->status.flags.has(StatusFlag::zero);
      if (found->status.bytes != 0) bytes = std::min(bytes, found->status.bytes);
    }
    if (!hole && bytes == slot.request.length) co_return Status();
    if (!slot.pieces.empty() && slot.pieces.back().hole == hole) {
      slot.pieces.back().length += static_cast<uint32_t>(bytes);
    } else {
      slot.pieces.push_back({offset, static_cast<uint32_t>(bytes), hole});
    }
    offset += bytes;
  }
  if (slot.pieces.size() == 1 && !slot.pieces.front().hole) slot.pieces.clear();
  co_return Status();
}

Task<void> Connection::block_status(Slot& slot) {
  std::vector<uint32_t>& ids = slot.contexts;
  wanted_contexts(slot, ids);
  BufferPool::Buffer extents = pool_.get(kStatusBytes);
  bool ok = static_cast<bool>(extents) && slot.reply.start_block_status(ids.size(), pool_);
  if (!ok) co_return fail(slot, ENOMEM, failure_text(Command::block_status));
  size_t share = kStatusBytes / ids.size() & ~size_t{15};
  for (size_t i = 0; i < ids.size(); ++i) {
    nbd::ExtentList list({extents.data() + i * share, share}, terms_.mode, slot.request.length,
                         (slot.request.flags & nbd::kCmdReqOne) != 0);
    Status status;
    if (ids[i] >= nbd::kFirstDirtyBitmapId)
      list_dirty(export_.bitmap(ids[i] - nbd::kFirstDirtyBitmapId), slot.request, list);
    else
      status = co_await list_extents(slot.request, ids[i], list);
    if (!status) {
      co_return fail(slot, status.error_number(), failure_text(Command::block_status));
    }
    slot.reply.add_block_status(terms_.mode, slot.request, ids[i], list.count(), list.bytes(),
                                i + 1 == ids.size());
  }
  slot.buffer = std::move(extents);
  finish(slot);
}

// The ids the client asks for, ascending: all that were agreed on, unless the request names some.
void Connection::wanted_contexts(const Slot& slot, std::vector<uint32_t>& ids) const {
  auto asked_for = [&](uint32_t id) {
    if (slot.wanted_contexts.empty()) return true;
    for (nbd::Reader reader(slot.wanted_contexts); !reader.left().empty();) {
      if (reader.take<uint32_t>() == id) return true;
    }
    return false;
  };
  ids.clear();
  for (uint32_t id = 0; id < nbd::kFirstDirtyBitmapId + export_.bitmaps(); ++id) {
    if (agreement_.contexts.contains(id) && asked_for(id)) ids.push_back(id);
  }
}

Task<Status> Connection::list_extents(Request request, uint32_t id, nbd::ExtentList& list) {
  // Only where zeroes lie takes asking the file system; who holds the data is known without.
  const StatusWant want =
      id == nbd::kAllocationDepthId ? StatusWant::contents : StatusWant::mapping;
  const uint64_t end = request.offset + request.length;
  uint64_t offset = request.offset;
  bool more = true;
  for (int lookups = 0; more && offset < end && lookups < kMostLookups; ++lookups) {
    auto found = co_await export_.backend().block_status(offset, end - offset, want);
    if (!found) co_return found.status();
    // Nothing is known of what lies behind the end of a node that has shrunk.
    uint64_t bytes = found->status.bytes != 0 ? found->status.bytes : end - offset;
    more = list.add({.length = bytes, .flags = status_flags(id, *found)});
    offset += bytes;
  }
  co_return Status();
}

}  // namespace strata::nbd_export
