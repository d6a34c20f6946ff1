// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd/extents.h"

#include <algorithm>
#include <cassert>

namespace strata::nbd {

ExtentList::ExtentList(std::span<std::byte> bytes, ReplyMode mode, std::uint64_t requested,
                       bool one) noexcept
    : bytes_(bytes), mode_(mode), requested_(requested) {
  assert(mode == ReplyMode::extended || requested <= UINT32_MAX);
  std::size_t fits = std::min<std::size_t>(bytes.size() / extent_size(mode), kMaxStatusExtents);
  capacity_ = static_cast<std::uint32_t>(one ? std::min<std::size_t>(fits, 1) : fits);
}

bool ExtentList::add(Extent extent) noexcept {
  assert(extent.length != 0);
  extent.length = std::min(extent.length, requested_ - covered_);
  if (extent.length == 0) return false;
  if (count_ > 0 && last_.flags == extent.flags) {
    last_.length += extent.length;
  } else {
    if (count_ == capacity_) return false;
    ++count_;
    last_ = extent;
  }
  covered_ += extent.length;
  write_last();
  return covered_ < requested_;
}

void ExtentList::write_last() noexcept {
  std::byte* to = bytes_.data() + (count_ - 1) * extent_size(mode_);
  if (mode_ == ReplyMode::extended) {
    store(to, last_.length);
    store(to + 8, last_.flags);
  } else {
    store(to, static_cast<std::uint32_t>(last_.length));
    store(to + 4, static_cast<std::uint32_t>(last_.flags));
  }
}

Extent StatusChunk::extent(std::size_t index) const noexcept {
  const std::byte* from = extents_.data() + index * extent_size(mode_);
  if (mode_ == ReplyMode::extended) {
    return {.length = load<std::uint64_t>(from), .flags = load<std::uint64_t>(from + 8)};
  }
  return {.length = load<std::uint32_t>(from), .flags = load<std::uint32_t>(from + 4)};
}

std::optional<StatusChunk> parse_block_status(ConstBytes payload, ReplyMode mode) noexcept {
  Reader reader(payload);
  StatusChunk chunk;
  chunk.mode_ = mode;
  chunk.id_ = reader.take<std::uint32_t>();
  std::optional<std::uint32_t> announced;
  if (mode == ReplyMode::extended) announced = reader.take<std::uint32_t>();
  chunk.extents_ = reader.left();
  if (reader.overrun() || chunk.extents_.empty() ||
      chunk.extents_.size() % extent_size(mode) != 0 ||
      (announced && *announced != chunk.count())) {
    return std::nullopt;
  }
  for (std::size_t i = 0; i < chunk.count(); ++i) {
    if (chunk.extent(i).length == 0) return std::nullopt;
  }
  return chunk;
}

}  // namespace strata::nbd
