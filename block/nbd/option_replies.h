// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a server answers to options: builders of whole reply messages (header and payload) for the
// server, parsers of payloads for the client.
//
// Parsed strings are views into the payload; a parser returns nothing where the payload breaks the
// protocol.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "block/nbd/handshake.h"
#include "block/nbd/protocol.h"
#include "block/nbd/wire.h"

namespace strata::nbd {

// A reply without payload: ACK.
Message build_ack(Option option);
// An error with a text for people; more than 4096 bytes of it are cut off between two characters.
Message build_error(Option option, OptionReply error, std::string_view text);
// The longest prefix of `text` that fits the limit for strings and does not end inside a UTF-8
// sequence.
std::string_view clip_string(std::string_view text) noexcept;

// One export of LIST.
struct ServerEntry {
  std::string_view name;
  std::string_view description;
};
Message build_server_entry(const ServerEntry& entry);
std::optional<ServerEntry> parse_server_entry(ConstBytes payload) noexcept;

// Replies to INFO and GO. All in bytes; the minimum and preferred sizes are powers of 2.
struct BlockSizes {
  std::uint32_t minimum = 1;
  std::uint32_t preferred = 4096;
  std::uint32_t maximum = kMaxPayload;  // of a payload
  friend bool operator==(const BlockSizes&, const BlockSizes&) = default;
};
// `option` is INFO or GO.
Message build_info_export(Option option, ExportSize size);
Message build_info_text(Option option, Info info, std::string_view text);  // NAME or DESCRIPTION
Message build_info_block_size(Option option, const BlockSizes& sizes);

// The type in front of an INFO reply, and what follows it.
struct InfoReply {
  Info info{};
  ConstBytes payload;
};
std::optional<InfoReply> parse_info_reply(ConstBytes payload) noexcept;
std::optional<ExportSize> parse_info_export(ConstBytes payload) noexcept;
// Refuses sizes that the protocol forbids (not a power of 2, preferred below minimum, ...).
std::optional<BlockSizes> parse_info_block_size(ConstBytes payload) noexcept;

struct MetaContextEntry {
  std::uint32_t id = 0;
  std::string_view name;
};
// `option` is LIST_META_CONTEXT or SET_META_CONTEXT.
Message build_meta_context(Option option, const MetaContextEntry& entry);
std::optional<MetaContextEntry> parse_meta_context(ConstBytes payload) noexcept;

}  // namespace strata::nbd
