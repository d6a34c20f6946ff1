// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd/reply.h"

#include <cassert>

namespace strata::nbd {
namespace {

constexpr std::uint16_t done_if(bool last) noexcept {
  return last ? kReplyDone : 0;
}

}  // namespace

std::size_t encode_simple_reply(ReplyBuffer out, std::uint64_t cookie, WireError error) noexcept {
  store(out.data(), kSimpleReplyMagic);
  store(out.data() + 4, static_cast<std::uint32_t>(error));
  store(out.data() + 8, cookie);
  return kSimpleReplySize;
}

std::size_t encode_chunk_header(ReplyBuffer out, ReplyMode mode, const Request& request,
                                std::uint16_t flags, ReplyType type,
                                std::uint64_t length) noexcept {
  assert(mode != ReplyMode::simple);
  bool extended = mode == ReplyMode::extended;
  std::byte* to = out.data();
  store(to, extended ? kExtendedReplyMagic : kStructuredReplyMagic);
  store(to + 4, flags);
  store(to + 6, static_cast<std::uint16_t>(type));
  store(to + 8, request.cookie);
  if (extended) {
    store(to + 16, request.offset);
    store(to + 24, length);
    return kExtendedReplySize;
  }
  store(to + 16, static_cast<std::uint32_t>(length));
  return kStructuredReplySize;
}

std::size_t encode_success(ReplyBuffer out, ReplyMode mode, const Request& request) noexcept {
  bool chunk = mode == ReplyMode::extended ||
               (mode == ReplyMode::structured && request.command == Command::read);
  if (!chunk) return encode_simple_reply(out, request.cookie, WireError::none);
  return encode_chunk_header(out, mode, request, kReplyDone, ReplyType::none, 0);
}

std::size_t encode_data(ReplyBuffer out, ReplyMode mode, const Request& request,
                        std::uint64_t offset, std::uint32_t length, bool last) noexcept {
  if (mode == ReplyMode::simple) return encode_simple_reply(out, request.cookie, WireError::none);
  std::size_t size = encode_chunk_header(out, mode, request, done_if(last), ReplyType::offset_data,
                                         sizeof offset + std::uint64_t{length});
  store(out.data() + size, offset);
  return size + sizeof offset;
}

std::size_t encode_hole(ReplyBuffer out, ReplyMode mode, const Request& request,
                        std::uint64_t offset, std::uint32_t length, bool last) noexcept {
  std::size_t size = encode_chunk_header(out, mode, request, done_if(last), ReplyType::offset_hole,
                                         sizeof offset + sizeof length);
  store(out.data() + size, offset);
  store(out.data() + size + sizeof offset, length);
  return size + sizeof offset + sizeof length;
}

std::size_t encode_error(ReplyBuffer out, ReplyMode mode, const Request& request, WireError error,
                         std::size_t text_length) noexcept {
  assert(error != WireError::none && text_length <= kMaxString);
  if (mode == ReplyMode::simple) return encode_simple_reply(out, request.cookie, error);
  std::size_t fixed = sizeof(std::uint32_t) + sizeof(std::uint16_t);
  std::size_t size =
      encode_chunk_header(out, mode, request, kReplyDone, ReplyType::error, fixed + text_length);
  store(out.data() + size, static_cast<std::uint32_t>(error));
  store(out.data() + size + sizeof(std::uint32_t), static_cast<std::uint16_t>(text_length));
  return size + fixed;
}

std::size_t encode_block_status(ReplyBuffer out, ReplyMode mode, const Request& request,
                                std::uint32_t id, std::uint32_t extent_count, bool last) noexcept {
  bool extended = mode == ReplyMode::extended;
  std::uint64_t extents = std::uint64_t{extent_count} * (extended ? 16 : 8);
  std::size_t fixed = sizeof id + (extended ? sizeof extent_count : 0);
  ReplyType type = extended ? ReplyType::block_status_ext : ReplyType::block_status;
  std::size_t size = encode_chunk_header(out, mode, request, done_if(last), type, fixed + extents);
  store(out.data() + size, id);
  if (extended) store(out.data() + size + sizeof id, extent_count);
  return size + fixed;
}

std::optional<std::size_t> reply_header_size(std::uint32_t magic, ReplyMode mode) noexcept {
  switch (magic) {
    case kSimpleReplyMagic:
      if (mode != ReplyMode::extended) return kSimpleReplySize;
      break;
    case kStructuredReplyMagic:
      if (mode == ReplyMode::structured) return kStructuredReplySize;
      break;
    case kExtendedReplyMagic:
      if (mode == ReplyMode::extended) return kExtendedReplySize;
      break;
    default:
      break;
  }
  return std::nullopt;
}

std::optional<ReplyHeader> decode_reply_header(ConstBytes bytes, ReplyMode mode) noexcept {
  if (bytes.size() < sizeof(std::uint32_t)) return std::nullopt;
  const std::byte* from = bytes.data();
  std::uint32_t magic = load<std::uint32_t>(from);
  if (reply_header_size(magic, mode) != bytes.size()) return std::nullopt;
  ReplyHeader header;
  header.cookie = load<std::uint64_t>(from + 8);
  if (magic == kSimpleReplyMagic) {
    header.simple = true;
    header.error = static_cast<WireError>(load<std::uint32_t>(from + 4));
    return header;
  }
  header.flags = load<std::uint16_t>(from + 4);
  header.type = static_cast<ReplyType>(load<std::uint16_t>(from + 6));
  if (mode == ReplyMode::extended) {
    header.offset = load<std::uint64_t>(from + 16);
    header.length = load<std::uint64_t>(from + 24);
  } else {
    header.length = load<std::uint32_t>(from + 16);
  }
  return header;
}

std::optional<ErrorChunk> parse_error_chunk(ReplyType type, ConstBytes payload) noexcept {
  Reader reader(payload);
  ErrorChunk chunk;
  chunk.error = static_cast<WireError>(reader.take<std::uint32_t>());
  std::uint16_t text_length = reader.take<std::uint16_t>();
  chunk.text = reader.take_text(text_length);
  if (type == ReplyType::error_offset) chunk.offset = reader.take<std::uint64_t>();
  bool known = type == ReplyType::error || type == ReplyType::error_offset;
  if (reader.overrun() || text_length > kMaxString || chunk.error == WireError::none ||
      (known && !reader.left().empty())) {
    return std::nullopt;
  }
  return chunk;
}

std::optional<Hole> parse_hole_chunk(ConstBytes payload) noexcept {
  Reader reader(payload);
  Hole hole;
  hole.offset = reader.take<std::uint64_t>();
  hole.length = reader.take<std::uint32_t>();
  if (reader.overrun() || !reader.left().empty() || hole.length == 0) return std::nullopt;
  return hole;
}

}  // namespace strata::nbd
