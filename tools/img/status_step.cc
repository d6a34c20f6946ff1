// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/status_step.h"

#include "block/qcow2/image.h"
#include "block/qcow2/qcow2.h"

namespace strata::tools {
namespace {

// Packed clusters are told of one by one.
bool goes_on(const io::ChainStatus& chain, const io::ChainStatus& next) noexcept {
  const BlockStatus& first = chain.status;
  const BlockStatus& second = next.status;
  if (chain.depth != next.depth || first.flags.has(StatusFlag::compressed)) return false;
  if (first.flags != second.flags.without(StatusFlag::eof) || first.file != second.file)
    return false;
  return !first.flags.has(StatusFlag::offset_valid) ||
         first.map_offset + first.bytes == second.map_offset;
}

}  // namespace

Task<Result<io::ChainStatus>> long_status_above(Node& top, Node* base, uint64_t offset,
                                                uint64_t bytes, Claims& claims) {
  bytes = std::min(bytes, StatusStep(top, base, 1).left(offset));
  auto all = co_await io::block_status_above(top, base, false, offset, bytes);
  while (all && all->status.bytes != 0 && all->status.bytes < bytes) {
    uint64_t done = all->status.bytes;
    auto next = co_await io::block_status_above(top, base, false, offset + done, bytes - done);
    if (!next || next->status.bytes == 0 || !goes_on(*all, *next)) break;
    if (!claims.allow(next->status, 0)) break;
    all->status.bytes += next->status.bytes;
    all->status.flags = next->status.flags;
  }
  co_return all;
}

// Each qcow2 image that is asked answers for as much as one of its L2 tables maps.
StatusStep::StatusStep(const Node& top, const Node* base, int depth) noexcept {
  const Node* node = &top;
  for (int level = 1; node != nullptr && node != base; ++level) {
    if (const qcow2::Image* image = qcow2::image_of(*node))
      span_ = std::min(span_, image->geometry().bytes_per_l2_table());
    if (level == depth) break;
    node = io::next_in_chain(*node);
  }
}

}  // namespace strata::tools
