// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/base/base64.h"

#include <cstdint>

#include "block/base/error.h"

namespace strata {
namespace {

constexpr std::string_view kDigits =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

}  // namespace

std::string encode_base64(std::string_view data) {
  std::string text;
  for (size_t i = 0; i < data.size(); i += 3) {
    size_t count = std::min<size_t>(3, data.size() - i);
    uint32_t bits = 0;
    for (size_t k = 0; k < 3; ++k)
      bits = bits << 8 | (k < count ? static_cast<unsigned char>(data[i + k]) : 0u);
    for (size_t k = 0; k < 4; ++k) text += k <= count ? kDigits[bits >> (18 - 6 * k) & 63] : '=';
  }
  return text;
}

std::string decode_base64(std::string_view text) {
  std::string data;
  uint32_t bits = 0;
  int have = 0;
  size_t padding = 0;
  size_t digits = 0;
  for (char c : text) {
    if (c == '\n' || c == '\r') continue;
    ++digits;
    if (c == '=') {
      ++padding;
      continue;
    }
    size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos || padding != 0)
      throw Error("Base64 data contains invalid characters");
    bits = bits << 6 | static_cast<uint32_t>(digit);
    have += 6;
    if (have >= 8) {
      have -= 8;
      data += static_cast<char>(bits >> have & 0xff);
    }
  }
  if (digits % 4 != 0 || padding > 2) throw Error("Base64 data is not valid");
  return data;
}

}  // namespace strata
