// SPDX-License-Identifier: GPL-2.0-or-later
//
// Every decoder of block/nbd on the same bytes. The first byte chooses the mode; values that were
// parsed are walked, and what has an encoder must come out as it went in.
#include <array>
#include <cstdint>
#include <cstdlib>
#include <variant>

#include "block/nbd/error_codes.h"
#include "block/nbd/extents.h"
#include "block/nbd/handshake.h"
#include "block/nbd/meta_context.h"
#include "block/nbd/option_replies.h"
#include "block/nbd/options.h"
#include "block/nbd/reply.h"
#include "block/nbd/request.h"

using namespace strata::nbd;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void fuzz_options(ConstBytes bytes) {
  auto info = parse_info_option(Option::go, bytes);
  if (auto* value = std::get_if<InfoOption>(&info)) {
    require(valid_string(value->name));
    value->asks_for(Info::block_size);
  }
  auto meta = parse_meta_option(Option::set_meta_context, bytes);
  if (auto* value = std::get_if<MetaOption>(&meta)) {
    const std::vector<std::string> bitmaps = {"a", "b"};
    MetaOffer offer{.allocation_depth = true, .bitmaps = bitmaps};
    MetaSelection selection;
    while (value->queries.left() > 0) {
      selection.apply(value->queries.next(), offer, bytes.size() % 2 == 0);
    }
    require(selection.count() <= 4);
  }
}

void fuzz_option_replies(ConstBytes bytes) {
  parse_server_entry(bytes);
  parse_meta_context(bytes);
  clip_string(as_text(bytes));
  if (auto info = parse_info_reply(bytes)) {
    parse_info_export(info->payload);
    if (auto sizes = parse_info_block_size(info->payload)) require(sizes->minimum != 0);
  }
  if (bytes.size() >= kGreetingSize) decode_greeting(bytes.first<kGreetingSize>());
  if (bytes.size() >= kOptionHeaderSize) decode_option_header(bytes.first<kOptionHeaderSize>());
  if (bytes.size() >= kOptionReplyHeaderSize) {
    decode_option_reply_header(bytes.first<kOptionReplyHeaderSize>());
  }
}

void fuzz_transmission(ConstBytes bytes, ReplyMode mode) {
  if (bytes.size() >= request_size(mode)) {
    if (auto request = decode_request(bytes.data(), mode)) {
      std::array<std::byte, kMaxRequestSize> out;
      std::size_t size = encode_request(out, *request, mode);
      require(as_text(ConstBytes(out).first(size)) == as_text(bytes.first(size)));
      within(*request, bytes.size(), request->length);
    }
  }
  if (auto payload = parse_status_payload(bytes)) {
    for (std::size_t i = 0; i < payload->count(); ++i) payload->id(i);
  }
  if (auto header = decode_reply_header(bytes, mode)) from_wire_error(header->error);
  parse_error_chunk(ReplyType::error, bytes);
  parse_error_chunk(ReplyType::error_offset, bytes);
  parse_hole_chunk(bytes);
}

void fuzz_extents(ConstBytes bytes, ReplyMode mode) {
  auto chunk = parse_block_status(bytes, mode);
  if (!chunk) return;
  std::array<std::byte, 256> buffer;
  ExtentList list(buffer, mode, 1u << 20, bytes.size() % 2 == 0);
  for (std::size_t i = 0; i < chunk->count() && list.add(chunk->extent(i)); ++i) {
  }
  require(list.covered() <= 1u << 20 && list.bytes().size() <= buffer.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  ReplyMode mode = static_cast<ReplyMode>(data[0] % 3);
  ConstBytes bytes{reinterpret_cast<const std::byte*>(data + 1), size - 1};
  fuzz_options(bytes);
  fuzz_option_replies(bytes);
  fuzz_transmission(bytes, mode);
  fuzz_extents(bytes, mode);
  return 0;
}
