// SPDX-License-Identifier: GPL-2.0-or-later
//
// Generated enums: contiguous from 0 in the schema's order, each with a table of names.
//
//   to_string(BlockdevDriver::null_co)           "null-co"
//   from_string<BlockdevDriver>("null-co")       std::optional
//   for (auto driver : values<BlockdevDriver>())
#pragma once

#include <cstddef>
#include <optional>
#include <ranges>
#include <span>
#include <string_view>
#include <type_traits>

namespace strata::qapi {

struct EnumValueInfo {
  std::string_view name;
  std::span<const std::string_view> features;
};

struct EnumInfo {
  std::string_view name;
  std::span<const EnumValueInfo> values;

  // The index of `text`, or -1.
  int find(std::string_view text) const noexcept;
};

// Every generated enum specialises this.
template <class E>
const EnumInfo& enum_info() noexcept;

template <class E>
concept SchemaEnum = std::is_enum_v<E> && requires { enum_info<E>(); };

template <SchemaEnum E>
std::string_view to_string(E value) noexcept {
  const EnumInfo& info = enum_info<E>();
  const auto index = static_cast<std::size_t>(value);
  return index < info.values.size() ? info.values[index].name : std::string_view("?");
}

template <SchemaEnum E>
std::optional<E> from_string(std::string_view text) noexcept {
  const int index = enum_info<E>().find(text);
  return index < 0 ? std::nullopt : std::optional<E>(static_cast<E>(index));
}

template <SchemaEnum E>
auto values() noexcept {
  return std::views::iota(0, static_cast<int>(enum_info<E>().values.size())) |
         std::views::transform([](int index) { return static_cast<E>(index); });
}

}  // namespace strata::qapi
