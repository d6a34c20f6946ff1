// SPDX-License-Identifier: GPL-2.0-or-later
#include "qapi/runtime/scalars.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdlib>

namespace strata::qapi {

namespace {

// What a strtoX function consumed must be all of the text, and something.
template <class Value, class Parse>
std::optional<Value> whole(const std::string& text, Parse parse) {
  char* end = nullptr;
  errno = 0;
  const Value value = parse(text.c_str(), &end);
  if (errno != 0 || end == text.c_str() || end != text.c_str() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::uint64_t> unit_of(std::string_view suffix) {
  constexpr std::string_view kUnits = "bkmgtpe";
  if (suffix.empty()) return 1;
  if (suffix.size() != 1) return std::nullopt;
  const auto lower = static_cast<char>(std::tolower(static_cast<unsigned char>(suffix[0])));
  const auto index = kUnits.find(lower);
  if (index == std::string_view::npos) return std::nullopt;
  return std::uint64_t{1} << (10 * index);
}

}  // namespace

std::optional<std::int64_t> parse_int64(const std::string& text) {
  return whole<std::int64_t>(text, [](const char* s, char** end) { return strtoll(s, end, 0); });
}

std::optional<std::uint64_t> parse_uint64(const std::string& text) {
  return whole<std::uint64_t>(text, [](const char* s, char** end) { return strtoull(s, end, 0); });
}

std::optional<double> parse_number(const std::string& text) {
  auto value = whole<double>(text, [](const char* s, char** end) { return strtod(s, end); });
  return value && std::isfinite(*value) ? value : std::nullopt;
}

std::optional<bool> parse_switch(const std::string& text) {
  if (text == "on" || text == "yes" || text == "true" || text == "y") return true;
  if (text == "off" || text == "no" || text == "false" || text == "n") return false;
  return std::nullopt;
}

std::optional<std::uint64_t> parse_size(const std::string& text) {
  const char* const last = text.data() + text.size();
  std::uint64_t whole_part = 0;
  if (text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
    const auto [end, error] = std::from_chars(text.data() + 2, last, whole_part, 16);
    return error == std::errc() && end == last ? std::optional(whole_part) : std::nullopt;
  }
  const auto [end, error] = std::from_chars(text.data(), last, whole_part);
  if (error != std::errc()) return std::nullopt;
  double fraction = 0;
  const char* rest = end;
  if (rest != last && *rest == '.') {
    double scale = 0.1;
    for (++rest; rest != last && *rest >= '0' && *rest <= '9'; ++rest, scale /= 10) {
      fraction += (*rest - '0') * scale;
    }
  }
  const auto unit = unit_of({rest, last});
  if (!unit || (fraction > 0 && *unit == 1)) return std::nullopt;
  std::uint64_t result = 0;
  const auto extra = static_cast<std::uint64_t>(fraction * static_cast<double>(*unit) + 0.5);
  if (__builtin_mul_overflow(whole_part, *unit, &result) ||
      __builtin_add_overflow(result, extra, &result)) {
    return std::nullopt;
  }
  return result;
}

Error not_a_size(std::string_view parameter, std::string_view text) {
  std::string_view digits = text.substr(text.starts_with('-') ? 1 : 0);
  const auto end = std::min(digits.find_first_not_of("0123456789"), digits.size());
  const std::string_view suffix = digits.substr(end);
  const bool has_unit = text == digits && suffix.size() == 1 && unit_of(suffix);
  if (end != 0 && (suffix.empty() || has_unit))
    return Error("Value '{}' is out of range for parameter '{}'", text, parameter);
  return Error("Parameter '{}' expects a non-negative number below 2^64", parameter)
      .hint(
          "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
          "and exabytes, respectively.\n");
}

Error not_a_size(std::string_view parameter, std::int64_t negative) {
  return not_a_size(parameter, std::to_string(negative));
}

}  // namespace strata::qapi
