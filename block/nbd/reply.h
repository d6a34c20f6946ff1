// SPDX-License-Identifier: GPL-2.0-or-later
//
// Replies of the transmission phase: the simple reply, the structured chunk and the extended chunk.
//
// The encoders write everything of a message but its bulk (data, extents, error text) into a fixed
// buffer of the caller and return how many bytes that took; the bulk follows it on the wire from
// wherever it lies. The decoders are the client's half.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "block/nbd/protocol.h"
#include "block/nbd/request.h"
#include "block/nbd/wire.h"

namespace strata::nbd {

inline constexpr std::size_t kSimpleReplySize = 16;
inline constexpr std::size_t kStructuredReplySize = 20;
inline constexpr std::size_t kExtendedReplySize = 32;
// Room for every header with the fixed fields of its payload; the largest is an extended hole.
inline constexpr std::size_t kReplyHeaderRoom = kExtendedReplySize + 14;

using ReplyBuffer = std::span<std::byte, kReplyHeaderRoom>;

std::size_t encode_simple_reply(ReplyBuffer out, std::uint64_t cookie, WireError error) noexcept;

// The header of a chunk. `length` is of the payload and fits 32 bits unless `mode` is extended.
// `mode` must not be simple.
std::size_t encode_chunk_header(ReplyBuffer out, ReplyMode mode, const Request& request,
                                std::uint16_t flags, ReplyType type, std::uint64_t length) noexcept;

// Success without data: a NONE chunk with extended headers, else a simple reply, which is shorter
// and allowed for everything but READ; for READ it is a NONE chunk unless `mode` is simple.
std::size_t encode_success(ReplyBuffer out, ReplyMode mode, const Request& request) noexcept;

// In front of `length` bytes of data that lie at `offset` of the export. In simple mode there is
// one reply, for the whole of the request. `last` ends the reply.
std::size_t encode_data(ReplyBuffer out, ReplyMode mode, const Request& request,
                        std::uint64_t offset, std::uint32_t length, bool last) noexcept;

// A hole of `length` bytes at `offset` of the export. Not in simple mode.
std::size_t encode_hole(ReplyBuffer out, ReplyMode mode, const Request& request,
                        std::uint64_t offset, std::uint32_t length, bool last) noexcept;

// An error that ends the reply; in front of `text_length` bytes of text, at most 4096. In simple
// mode there is no text: pass 0. `error` is not none.
std::size_t encode_error(ReplyBuffer out, ReplyMode mode, const Request& request, WireError error,
                         std::size_t text_length) noexcept;

// In front of `extents_length` bytes made by ExtentList for context `id`. Not in simple mode.
std::size_t encode_block_status(ReplyBuffer out, ReplyMode mode, const Request& request,
                                std::uint32_t id, std::uint32_t extent_count, bool last) noexcept;

// What a client reads first. `simple` replies have `error` and no `length`; the data of a READ
// follows them unasked.
struct ReplyHeader {
  bool simple = false;
  WireError error{};
  std::uint16_t flags = 0;
  ReplyType type{};
  std::uint64_t cookie = 0;
  std::uint64_t offset = 0;  // extended only
  std::uint64_t length = 0;  // of the payload
  bool done() const noexcept { return simple || (flags & kReplyDone) != 0; }
};
// How many bytes a header that begins with `magic` has; nothing where `mode` does not allow it.
std::optional<std::size_t> reply_header_size(std::uint32_t magic, ReplyMode mode) noexcept;
// `bytes` holds exactly the header. Nothing where magic or size are wrong.
std::optional<ReplyHeader> decode_reply_header(ConstBytes bytes, ReplyMode mode) noexcept;

struct ErrorChunk {
  WireError error{};
  std::string_view text;
  std::optional<std::uint64_t> offset;  // ERROR_OFFSET only
};
// The payload of any error chunk, also of types that are not known.
std::optional<ErrorChunk> parse_error_chunk(ReplyType type, ConstBytes payload) noexcept;

struct Hole {
  std::uint64_t offset = 0;
  std::uint32_t length = 0;
};
std::optional<Hole> parse_hole_chunk(ConstBytes payload) noexcept;

// Whether `length` bytes at `offset` are non-empty and within the request, without wrapping round.
constexpr bool within(const Request& request, std::uint64_t offset, std::uint64_t length) noexcept {
  if (length == 0 || offset < request.offset) return false;
  std::uint64_t skipped = offset - request.offset;
  return skipped <= request.length && length <= request.length - skipped;
}

}  // namespace strata::nbd
