// SPDX-License-Identifier: GPL-2.0-or-later
#include <cerrno>

#include "block/io/checks.h"
#include "block/io/copy_on_read.h"
#include "block/io/padding.h"
#include "block/io/read_common.h"
#include "block/io/request.h"

namespace strata::io {
namespace {

Task<Status> read_bounced(Node& node, uint64_t offset, IoVector into, ReadFlags flags) {
  AlignedBuffer bounce(into.size());
  if (!bounce) co_return Status::error(ENOMEM);
  Status status =
      co_await node.driver().preadv(offset, IoVector::buffer(bounce.data(), into.size()), flags);
  if (status.ok()) into.copy_from(bounce.data());
  co_return status;
}

Task<Status> read_piece(Node& node, uint64_t offset, IoVector into, ReadFlags flags) {
  if (memory_fits(node, into)) [[likely]]
    return node.driver().preadv(offset, into, flags);
  return read_bounced(node, offset, into, flags);
}

Task<Status> read_in_pieces(Node& node, uint64_t offset, IoVector into, ReadFlags flags,
                            uint64_t limit) {
  for (size_t done = 0; done < into.size();) {
    size_t size = std::min<size_t>(into.size() - done, limit);
    Status status = co_await read_piece(node, offset + done, into.slice(done, size), flags);
    if (!status.ok()) co_return status;
    done += size;
  }
  co_return Status();
}

// Offset and length are multiples of the request alignment.
Task<Status> read_aligned(Node& node, uint64_t offset, IoVector into, ReadFlags flags) {
  uint64_t limit = piece_limit(node.io().limits, node.io().limits.max_transfer);
  if (into.size() <= limit) [[likely]]
    return read_piece(node, offset, into, flags);
  return read_in_pieces(node, offset, into, flags, limit);
}

Task<Status> read_padded(Node& node, uint64_t offset, IoVector into, ReadFlags flags) {
  Padding padding({offset, into.size()}, into, node.io().limits.request_alignment);
  if (!padding.ok()) co_return Status::error(ENOMEM);
  co_return co_await read_aligned(node, padding.aligned().offset, padding.memory(), flags);
}

Task<Status> read_with_flags(Node& node, uint64_t offset, IoVector into, ReadFlags flags) {
  if (!is_aligned(offset | into.size(), node.io().limits.request_alignment))
    return read_padded(node, offset, into, flags);
  return read_aligned(node, offset, into, flags);
}

Task<Status> count_waiting(Node& node, uint64_t bytes, Task<Status> read) {
  IoStats::Request request(node.io().stats, IoKind::read, bytes);
  Status status = co_await std::move(read);
  request.done(status.ok());
  co_return status;
}

Task<Status> count_read(Node& node, uint64_t bytes, Task<Status> read) {
  if (!read.is_ready()) return count_waiting(node, bytes, std::move(read));
  IoStats::Request(node.io().stats, IoKind::read, bytes).done(read.take_ready().ok());
  return read;
}

}  // namespace

Task<Status> read_range(Node& node, uint64_t offset, IoVector into) {
  return read_with_flags(node, offset, into, {});
}

Task<Status> preadv(Edge& child, uint64_t offset, IoVector into, ReadFlags flags) {
  Status range = check_range(offset, into.size());
  if (!range.ok() || into.empty()) return Task<Status>::ready(range);
  Node& node = child.node();
  if (flags.has(ReadFlag::copy_on_read)) [[unlikely]]
    return count_read(node, into.size(), read_and_populate(child, offset, into));
  return count_read(node, into.size(), read_with_flags(node, offset, into, flags));
}

}  // namespace strata::io
