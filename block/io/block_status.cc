// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/io/block_status.h"

#include <algorithm>
#include <cerrno>

#include "block/io/checks.h"

namespace strata::io {
namespace {

// Cuts an answer about whole units around the range asked back to that range.
void clip(BlockStatus& status, uint64_t skipped, uint64_t bytes) noexcept {
  status.bytes = status.bytes > skipped ? std::min(status.bytes - skipped, bytes) : 0;
  if (status.flags.has(StatusFlag::offset_valid)) status.map_offset += skipped;
}

// The data lies in a file below, which may know that it is zeroes.
bool can_refine(const Node& node, const BlockStatus& status) noexcept {
  bool data_elsewhere = status.flags.has_all(StatusFlags{StatusFlag::recurse} | StatusFlag::data |
                                             StatusFlag::offset_valid);
  return data_elsewhere && status.file != nullptr && status.file != &node;
}

void refine(BlockStatus& status, const BlockStatus& below) noexcept {
  bool zero = below.flags.has(StatusFlag::zero);
  if (below.flags.has(StatusFlag::eof) && (below.bytes == 0 || zero)) {
    status.flags |= StatusFlag::zero;  // past the end of the file
  } else if (below.bytes != 0) {
    status.bytes = std::min(status.bytes, below.bytes);
    if (zero) status.flags |= StatusFlag::zero;
  }
}

void judge_allocation(Node& node, uint64_t offset, StatusWant want, BlockStatus& status) noexcept {
  if (status.flags.has_any({StatusFlag::data, StatusFlag::zero})) {
    status.flags |= StatusFlag::allocated;
    return;
  }
  if (!node.descriptor().supports_backing) return;
  Node* backing = node.backing();
  if (backing == nullptr) {
    status.flags |= StatusFlag::zero;
  } else if (want == StatusWant::mapping) {
    uint64_t backing_length = backing->length();
    if (offset >= backing_length) status.flags |= StatusFlag::zero;
  }
}

Task<Result<BlockStatus>> status_within(Node& node, uint64_t offset, uint64_t bytes,
                                        StatusWant want) {
  uint32_t alignment = node.io().limits.request_alignment;
  ByteRange asked = ByteRange{offset, bytes}.aligned_out(alignment);
  Result<BlockStatus> answer = co_await node.driver().block_status(asked.offset, asked.bytes, want);
  if (!answer) co_return answer.status();
  BlockStatus status = *answer;
  clip(status, offset - asked.offset, bytes);
  if (status.bytes == 0) co_return Status::error(EIO);
  if (status.flags.has(StatusFlag::raw)) {
    Result<BlockStatus> below =
        co_await block_status(*status.file, status.map_offset, status.bytes, want);
    if (!below) co_return below.status();
    status = *below;
    if (status.bytes == 0) {  // the file is shorter than its node
      status = *answer;
      clip(status, offset - asked.offset, bytes);
      status.flags = {StatusFlag::zero, StatusFlag::allocated, StatusFlag::offset_valid};
    }
  } else {
    judge_allocation(node, offset, want, status);
    if (want == StatusWant::mapping && can_refine(node, status)) {
      Result<BlockStatus> below =
          co_await block_status(*status.file, status.map_offset, status.bytes, want);
      if (below) refine(status, *below);  // else the answer is less exact, and still true
    }
  }
  status.flags = status.flags.without(StatusFlag::eof);
  if (offset + status.bytes == node.length()) status.flags |= StatusFlag::eof;
  co_return status;
}

}  // namespace

Node* next_in_chain(const Node& node) noexcept {
  Edge* edge = node.child_in_role(ChildRole::cow);
  if (edge == nullptr && node.descriptor().is_filter)
    edge = node.child_in_role(ChildRole::filtered);
  return edge != nullptr ? &edge->node() : nullptr;
}

Task<Result<BlockStatus>> block_status(Node& node, uint64_t offset, uint64_t bytes,
                                       StatusWant want) {
  using Answer = Task<Result<BlockStatus>>;
  uint64_t length = node.length();
  BlockStatus none;
  if (offset >= length) {
    none.flags = StatusFlag::eof;
    return Answer::ready(none);
  }
  bytes = std::min(bytes, length - offset);
  if (bytes == 0) return Answer::ready(none);
  return status_within(node, offset, bytes, want);
}

Task<Result<ChainStatus>> block_status_above(Node& top, Node* base, bool include_base,
                                             uint64_t offset, uint64_t bytes, StatusWant want) {
  ChainStatus chain;
  if (!include_base && &top == base) {
    chain.status.bytes = bytes;
    co_return chain;
  }
  Node* node = &top;
  int depth = 1;
  uint64_t eof = 0;  // where an upper layer that is shorter than the one below ends
  for (;;) {
    Result<BlockStatus> answer = co_await block_status(*node, offset, bytes, want);
    if (!answer) co_return answer.status();
    chain.status = *answer;
    if (answer->bytes == 0 && depth > 1) {
      // Behind the end of a backing file there are zeroes, as long as the layer above goes on.
      chain.status.flags = {StatusFlag::zero, StatusFlag::allocated};
      chain.status.bytes = bytes;
      chain.depth = depth;
      break;
    }
    if (answer->flags.has(StatusFlag::allocated)) {
      chain.depth = depth;
      break;
    }
    Node* below = next_in_chain(*node);
    if (answer->flags.has(StatusFlag::eof) && eof == 0) eof = offset + answer->bytes;
    bytes = answer->bytes;
    if (below == nullptr || node == base || (below == base && !include_base) || bytes == 0) break;
    node = below;
    ++depth;
  }
  chain.status.flags = chain.status.flags.without(StatusFlag::eof);
  if (eof != 0 && offset + chain.status.bytes == eof)
    chain.status.flags |= StatusFlag::eof;
  else if (offset + chain.status.bytes == top.length())
    chain.status.flags |= StatusFlag::eof;
  co_return chain;
}

}  // namespace strata::io
