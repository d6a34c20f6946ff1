// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/common/numbers.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>

#include "qapi/runtime/scalars.h"

namespace strata::tools {
namespace {

bool is_too_large(const std::string& text) noexcept {
  size_t digits = 0;
  while (digits < text.size() && text[digits] >= '0' && text[digits] <= '9') ++digits;
  if (digits == 0) return false;
  std::string suffix = text.substr(digits);
  return suffix.empty() ||
         (suffix.size() == 1 &&
          std::string_view("bBkKmMgGtTpPeE").find(suffix[0]) != std::string_view::npos);
}

}  // namespace

Result<int64_t> parse_size(const std::string& text) {
  // White space before a number is none of it, as for strtoll().
  std::string number = text.substr(std::min(text.size(), text.find_first_not_of(" \t\n\v\f\r")));
  std::optional<uint64_t> size = qapi::parse_size(number);
  if (!size) return Result<int64_t>::error(is_too_large(number) ? ERANGE : EINVAL);
  if (*size > INT64_MAX) return Result<int64_t>::error(ERANGE);
  return static_cast<int64_t>(*size);
}

std::string human_size(uint64_t bytes) {
  static constexpr std::array<const char*, 7> kUnits{"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
  // A unit is taken as soon as three digits would not do for the one below: from 1000 on.
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1000 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, "%0.3g %sB", value, kUnits[unit]);
  return text;
}

}  // namespace strata::tools
