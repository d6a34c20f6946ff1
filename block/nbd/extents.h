// SPDX-License-Identifier: GPL-2.0-or-later
//
// The list of extents in a BLOCK_STATUS chunk: 32-bit pairs, or 64-bit pairs with extended headers.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "block/nbd/protocol.h"
#include "block/nbd/wire.h"

namespace strata::nbd {

constexpr std::size_t extent_size(ReplyMode mode) noexcept {
  return mode == ReplyMode::extended ? 16 : 8;
}

struct Extent {
  std::uint64_t length = 0;  // bytes, not zero
  std::uint64_t flags = 0;   // meaning given by the context
  friend bool operator==(const Extent&, const Extent&) = default;
};

// Writes extents in wire form into a buffer of the caller, merging neighbours with equal flags, and
// never past the length the client asked for.
class ExtentList {
 public:
  // Room is bytes.size() / extent_size(mode) extents, but at most 2^20. `one` is for kCmdReqOne. In
  // compact form `requested` is below 2^32, as the client's request could say no more. `bytes`
  // lives as long as the list.
  ExtentList(std::span<std::byte> bytes, ReplyMode mode, std::uint64_t requested,
             bool one) noexcept;

  // The next extent; its length is not zero. Returns whether more are wanted: false once the
  // request is covered, the buffer is full (what did not fit is dropped; the client asks again) or,
  // with `one`, the flags have changed.
  bool add(Extent extent) noexcept;

  std::uint32_t count() const noexcept { return count_; }
  std::uint64_t covered() const noexcept { return covered_; }
  // The list as it goes on the wire.
  ConstBytes bytes() const noexcept { return bytes_.first(count_ * extent_size(mode_)); }

 private:
  void write_last() noexcept;

  std::span<std::byte> bytes_;
  ReplyMode mode_;
  std::uint64_t requested_;
  std::uint32_t capacity_;
  std::uint32_t count_ = 0;
  std::uint64_t covered_ = 0;
  Extent last_;
};

// The client's side: a BLOCK_STATUS (or BLOCK_STATUS_EXT with extended headers) payload.
class StatusChunk {
 public:
  std::uint32_t id() const noexcept { return id_; }
  std::size_t count() const noexcept { return extents_.size() / extent_size(mode_); }
  Extent extent(std::size_t index) const noexcept;

 private:
  friend std::optional<StatusChunk> parse_block_status(ConstBytes, ReplyMode) noexcept;
  std::uint32_t id_ = 0;
  ReplyMode mode_ = ReplyMode::structured;
  ConstBytes extents_;
};
// Nothing where the payload is not an id and at least one extent, or where an extent is empty. A
// view.
std::optional<StatusChunk> parse_block_status(ConstBytes payload, ReplyMode mode) noexcept;

}  // namespace strata::nbd
