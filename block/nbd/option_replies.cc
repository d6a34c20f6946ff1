// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd/option_replies.h"

#include <bit>

#include "block/nbd/options.h"

namespace strata::nbd {
namespace {

constexpr std::uint32_t kMaxMinimumBlock = 64u << 10;
constexpr std::uint32_t kMinPreferredBlock = 512;

Message start(Option option, OptionReply reply, std::size_t length) {
  Message message;
  message.put(ConstBytes(encode_option_reply_header(
      {.option = option, .reply = reply, .length = static_cast<std::uint32_t>(length)})));
  return message;
}

Message start_info(Option option, Info info, std::size_t length) {
  Message message = start(option, OptionReply::info, sizeof(std::uint16_t) + length);
  message.put(static_cast<std::uint16_t>(info));
  return message;
}

}  // namespace

Message build_ack(Option option) {
  return start(option, OptionReply::ack, 0);
}

Message build_error(Option option, OptionReply error, std::string_view text) {
  text = clip_string(text);
  Message message = start(option, error, text.size());
  message.put(text);
  return message;
}

std::string_view clip_string(std::string_view text) noexcept {
  if (text.size() <= kMaxString) return text;
  std::size_t end = kMaxString;
  auto continues = [&](std::size_t at) {
    return (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80;
  };
  // A sequence has at most three continuation bytes; what goes on longer is not UTF-8 anyway.
  for (int i = 0; i < 3 && continues(end); ++i) --end;
  return text.substr(0, continues(end) ? kMaxString : end);
}

Message build_server_entry(const ServerEntry& entry) {
  std::size_t length = sizeof(std::uint32_t) + entry.name.size() + entry.description.size();
  Message message = start(Option::list, OptionReply::server, length);
  message.put(static_cast<std::uint32_t>(entry.name.size())).put(entry.name).put(entry.description);
  return message;
}

std::optional<ServerEntry> parse_server_entry(ConstBytes payload) noexcept {
  Reader reader(payload);
  std::string_view name = reader.take_text(reader.take<std::uint32_t>());
  if (reader.overrun()) return std::nullopt;
  std::string_view description = as_text(reader.left());
  if (!valid_string(name) || !valid_string(description)) return std::nullopt;
  return ServerEntry{.name = name, .description = description};
}

Message build_info_export(Option option, ExportSize size) {
  Message message = start_info(option, Info::export_, kExportNameReplySize);
  message.put(size.size).put(size.transmission_flags);
  return message;
}

Message build_info_text(Option option, Info info, std::string_view text) {
  Message message = start_info(option, info, text.size());
  message.put(text);
  return message;
}

Message build_info_block_size(Option option, const BlockSizes& sizes) {
  Message message = start_info(option, Info::block_size, 3 * sizeof(std::uint32_t));
  message.put(sizes.minimum).put(sizes.preferred).put(sizes.maximum);
  return message;
}

std::optional<InfoReply> parse_info_reply(ConstBytes payload) noexcept {
  Reader reader(payload);
  Info info = static_cast<Info>(reader.take<std::uint16_t>());
  if (reader.overrun()) return std::nullopt;
  return InfoReply{.info = info, .payload = reader.left()};
}

std::optional<ExportSize> parse_info_export(ConstBytes payload) noexcept {
  if (payload.size() != kExportNameReplySize) return std::nullopt;
  return decode_export_name_reply(payload.first<kExportNameReplySize>());
}

std::optional<BlockSizes> parse_info_block_size(ConstBytes payload) noexcept {
  if (payload.size() != 3 * sizeof(std::uint32_t)) return std::nullopt;
  Reader reader(payload);
  BlockSizes sizes;
  sizes.minimum = reader.take<std::uint32_t>();
  sizes.preferred = reader.take<std::uint32_t>();
  sizes.maximum = reader.take<std::uint32_t>();
  bool minimum_ok = std::has_single_bit(sizes.minimum) && sizes.minimum <= kMaxMinimumBlock;
  bool preferred_ok = std::has_single_bit(sizes.preferred) && sizes.preferred >= sizes.minimum &&
                      sizes.preferred >= kMinPreferredBlock;
  if (!minimum_ok || !preferred_ok || sizes.maximum < sizes.preferred) return std::nullopt;
  return sizes;
}

Message build_meta_context(Option option, const MetaContextEntry& entry) {
  Message message = start(option, OptionReply::meta_context, sizeof entry.id + entry.name.size());
  message.put(entry.id).put(entry.name);
  return message;
}

std::optional<MetaContextEntry> parse_meta_context(ConstBytes payload) noexcept {
  Reader reader(payload);
  std::uint32_t id = reader.take<std::uint32_t>();
  std::string_view name = as_text(reader.left());
  if (reader.overrun() || !valid_string(name)) return std::nullopt;
  return MetaContextEntry{.id = id, .name = name};
}

}  // namespace strata::nbd
