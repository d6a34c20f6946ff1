// SPDX-License-Identifier: GPL-2.0-or-later
#include "qapi/runtime/utf8.h"

namespace strata::qapi {

bool is_character(std::int32_t code) noexcept {
  if (code < 0 || code > 0x10FFFF) return false;
  if (code >= 0xD800 && code <= 0xDFFF) return false;
  if (code >= 0xFDD0 && code <= 0xFDEF) return false;
  return (code & 0xFFFE) != 0xFFFE;
}

std::int32_t take_code_point(std::string_view& text) noexcept {
  const auto lead = static_cast<unsigned char>(text.front());
  text.remove_prefix(1);
  if (lead < 0x80) return lead;
  if (lead < 0xC0 || lead >= 0xFE) return -1;  // a continuation byte, or never valid
  int length = 2;
  while (lead & (0x80 >> length)) ++length;
  std::int64_t code = lead & (0x7F >> length);
  for (int i = 1; i < length; ++i) {
    if (text.empty() || (static_cast<unsigned char>(text.front()) & 0xC0) != 0x80) return -1;
    code = code << 6 | (static_cast<unsigned char>(text.front()) & 0x3F);
    text.remove_prefix(1);
  }
  constexpr std::int64_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000, 0x200000, 0x4000000};
  const bool overlong = code < kSmallest[length] && !(code == 0 && length == 2);
  if (overlong || code > 0x10FFFF) return -1;
  return is_character(static_cast<std::int32_t>(code)) ? static_cast<std::int32_t>(code) : -1;
}

void append_code_point(std::string& out, std::int32_t code) {
  const auto put = [&out](std::int32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code > 0 && code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

}  // namespace strata::qapi
