// SPDX-License-Identifier: GPL-2.0-or-later
//
// The frame of the handshake: greeting, client flags, option headers and option reply headers.
//
// Decoders return nothing where the magic is wrong or bytes are missing; such a peer does not speak
// NBD and can only be disconnected.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "block/nbd/protocol.h"
#include "block/nbd/wire.h"

namespace strata::nbd {

inline constexpr std::size_t kGreetingSize = 18;
inline constexpr std::size_t kClientFlagsSize = 4;
inline constexpr std::size_t kOptionHeaderSize = 16;
inline constexpr std::size_t kOptionReplyHeaderSize = 20;
inline constexpr std::size_t kExportNameReplySize = 10;
inline constexpr std::size_t kExportNamePadding = 124;
inline constexpr std::size_t kOldstyleTailSize = 8 + 4 + 124;

// What a server says first, in newstyle.
std::array<std::byte, kGreetingSize> encode_greeting(std::uint16_t handshake_flags) noexcept;

struct Greeting {
  bool oldstyle = false;
  std::uint16_t handshake_flags = 0;  // newstyle only
};
// Needs the first 16 bytes; the flags are read from the next two if it is not oldstyle.
std::optional<Greeting> decode_greeting(std::span<const std::byte, kGreetingSize> bytes) noexcept;

// Size in bytes and transmission flags: what ends the haggling for EXPORT_NAME and for oldstyle.
struct ExportSize {
  std::uint64_t size = 0;
  std::uint16_t transmission_flags = 0;
  friend bool operator==(const ExportSize&, const ExportSize&) = default;
};

// Client flags may hold only what the server offered; anything else must end the connection.
constexpr bool client_flags_known(std::uint32_t flags) noexcept {
  return (flags & ~std::uint32_t{kFlagFixedNewstyle | kFlagNoZeroes}) == 0;
}

struct OptionHeader {
  Option option{};
  std::uint32_t length = 0;  // of the payload, in bytes; any value the client likes
};
std::array<std::byte, kOptionHeaderSize> encode_option_header(OptionHeader header) noexcept;
std::optional<OptionHeader> decode_option_header(
    std::span<const std::byte, kOptionHeaderSize> bytes) noexcept;

struct OptionReplyHeader {
  Option option{};
  OptionReply reply{};
  std::uint32_t length = 0;
};
std::array<std::byte, kOptionReplyHeaderSize> encode_option_reply_header(
    OptionReplyHeader header) noexcept;
std::optional<OptionReplyHeader> decode_option_reply_header(
    std::span<const std::byte, kOptionReplyHeaderSize> bytes) noexcept;

// The answer to EXPORT_NAME, with the 124 bytes of padding unless NO_ZEROES was agreed on.
Message encode_export_name_reply(ExportSize size, bool no_zeroes);
ExportSize decode_export_name_reply(
    std::span<const std::byte, kExportNameReplySize> bytes) noexcept;

}  // namespace strata::nbd
