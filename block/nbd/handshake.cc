// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd/handshake.h"

namespace strata::nbd {

std::array<std::byte, kGreetingSize> encode_greeting(std::uint16_t handshake_flags) noexcept {
  std::array<std::byte, kGreetingSize> out;
  store(out.data(), kInitMagic);
  store(out.data() + 8, kOptionMagic);
  store(out.data() + 16, handshake_flags);
  return out;
}

std::optional<Greeting> decode_greeting(std::span<const std::byte, kGreetingSize> bytes) noexcept {
  if (load<std::uint64_t>(bytes.data()) != kInitMagic) return std::nullopt;
  std::uint64_t style = load<std::uint64_t>(bytes.data() + 8);
  if (style == kOldstyleMagic) return Greeting{.oldstyle = true};
  if (style != kOptionMagic) return std::nullopt;
  return Greeting{.handshake_flags = load<std::uint16_t>(bytes.data() + 16)};
}

std::array<std::byte, kOptionHeaderSize> encode_option_header(OptionHeader header) noexcept {
  std::array<std::byte, kOptionHeaderSize> out;
  store(out.data(), kOptionMagic);
  store(out.data() + 8, static_cast<std::uint32_t>(header.option));
  store(out.data() + 12, header.length);
  return out;
}

std::optional<OptionHeader> decode_option_header(
    std::span<const std::byte, kOptionHeaderSize> bytes) noexcept {
  if (load<std::uint64_t>(bytes.data()) != kOptionMagic) return std::nullopt;
  return OptionHeader{.option = static_cast<Option>(load<std::uint32_t>(bytes.data() + 8)),
                      .length = load<std::uint32_t>(bytes.data() + 12)};
}

std::array<std::byte, kOptionReplyHeaderSize> encode_option_reply_header(
    OptionReplyHeader header) noexcept {
  std::array<std::byte, kOptionReplyHeaderSize> out;
  store(out.data(), kOptionReplyMagic);
  store(out.data() + 8, static_cast<std::uint32_t>(header.option));
  store(out.data() + 12, static_cast<std::uint32_t>(header.reply));
  store(out.data() + 16, header.length);
  return out;
}

std::optional<OptionReplyHeader> decode_option_reply_header(
    std::span<const std::byte, kOptionReplyHeaderSize> bytes) noexcept {
  if (load<std::uint64_t>(bytes.data()) != kOptionReplyMagic) return std::nullopt;
  return OptionReplyHeader{
      .option = static_cast<Option>(load<std::uint32_t>(bytes.data() + 8)),
      .reply = static_cast<OptionReply>(load<std::uint32_t>(bytes.data() + 12)),
      .length = load<std::uint32_t>(bytes.data() + 16)};
}

Message encode_export_name_reply(ExportSize size, bool no_zeroes) {
  Message message;
  message.put(size.size).put(size.transmission_flags);
  if (!no_zeroes) message.put_zeroes(kExportNamePadding);
  return message;
}

ExportSize decode_export_name_reply(
    std::span<const std::byte, kExportNameReplySize> bytes) noexcept {
  return {.size = load<std::uint64_t>(bytes.data()),
          .transmission_flags = load<std::uint16_t>(bytes.data() + 8)};
}

}  // namespace strata::nbd
