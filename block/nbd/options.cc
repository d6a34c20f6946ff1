// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd/options.h"

#include <fmt/format.h>

#include "block/nbd/names.h"

namespace strata::nbd {
namespace {

OptionFault inconsistent(Option option) {
  return {OptionReply::err_invalid,
          fmt::format("Inconsistent lengths in option {}", to_string(option))};
}

OptionFault unexpected_length(Option option) {
  return {OptionReply::err_invalid,
          fmt::format("option '{}' has unexpected length", to_string(option))};
}

OptionFault embedded_nul(Option option) {
  return {OptionReply::err_invalid,
          fmt::format("Unexpected embedded NUL in option {}", to_string(option))};
}

bool has_nul(std::string_view text) noexcept {
  return text.find('\0') != text.npos;
}

// The export name that INFO, GO and the META_CONTEXT options begin with.
Parsed<std::string_view> take_name(Option option, Reader& reader) {
  std::uint32_t length = reader.take<std::uint32_t>();
  if (length > kMaxString) {
    return OptionFault{OptionReply::err_invalid, fmt::format("Invalid name length: {}", length)};
  }
  std::string_view name = reader.take_text(length);
  if (reader.overrun()) return inconsistent(option);
  if (has_nul(name)) return embedded_nul(option);
  return name;
}

}  // namespace

std::optional<OptionFault> check_no_payload(Option option, std::uint32_t length) {
  if (length == 0) return std::nullopt;
  return unexpected_length(option);
}

bool valid_string(std::string_view text) noexcept {
  return text.size() <= kMaxString && !has_nul(text);
}

bool InfoOption::asks_for(Info info) const noexcept {
  for (Reader reader(requests); !reader.left().empty();) {
    if (reader.take<std::uint16_t>() == static_cast<std::uint16_t>(info)) return true;
  }
  return false;
}

Parsed<InfoOption> parse_info_option(Option option, ConstBytes payload) {
  Reader reader(payload);
  Parsed<std::string_view> name = take_name(option, reader);
  if (auto* fault = std::get_if<OptionFault>(&name)) return std::move(*fault);
  std::uint16_t count = reader.take<std::uint16_t>();
  ConstBytes requests = reader.take_bytes(std::size_t{count} * sizeof(std::uint16_t));
  if (reader.overrun()) return inconsistent(option);
  if (!reader.left().empty()) return unexpected_length(option);
  return InfoOption{.name = std::get<std::string_view>(name), .requests = requests};
}

Message build_info_option(std::string_view name, std::span<const Info> requests) {
  Message message;
  message.put(static_cast<std::uint32_t>(name.size())).put(name);
  message.put(static_cast<std::uint16_t>(requests.size()));
  for (Info info : requests) message.put(static_cast<std::uint16_t>(info));
  return message;
}

Parsed<MetaOption> parse_meta_option(Option option, ConstBytes payload) {
  Reader reader(payload);
  Parsed<std::string_view> name = take_name(option, reader);
  if (auto* fault = std::get_if<OptionFault>(&name)) return std::move(*fault);
  std::uint32_t count = reader.take<std::uint32_t>();
  ConstBytes queries = reader.left();
  // `count` is the client's word: the loop ends with the payload, not with it.
  for (std::uint32_t i = 0; i < count && !reader.overrun(); ++i) {
    if (has_nul(reader.take_text(reader.take<std::uint32_t>()))) return embedded_nul(option);
  }
  if (reader.overrun()) return inconsistent(option);
  if (!reader.left().empty()) return unexpected_length(option);
  return MetaOption{.name = std::get<std::string_view>(name), .queries = {queries, count}};
}

Message build_meta_option(std::string_view name, std::span<const std::string> queries) {
  Message message;
  message.put(static_cast<std::uint32_t>(name.size())).put(name);
  message.put(static_cast<std::uint32_t>(queries.size()));
  for (const std::string& query : queries) {
    message.put(static_cast<std::uint32_t>(query.size())).put(query);
  }
  return message;
}

}  // namespace strata::nbd
