// SPDX-License-Identifier: GPL-2.0-or-later
//
// Byte strings in tests: hex("00 01 ff") and the hexadecimal form of what a codec wrote.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

#include "block/nbd/wire.h"

namespace strata::nbd::test {

inline std::vector<std::byte> hex(std::string_view digits) {
  std::vector<std::byte> bytes;
  std::string pair;
  for (char digit : digits) {
    if (digit == ' ') continue;
    pair += digit;
    if (pair.size() < 2) continue;
    bytes.push_back(static_cast<std::byte>(std::stoi(pair, nullptr, 16)));
    pair.clear();
  }
  return bytes;
}

inline std::string to_hex(ConstBytes bytes) {
  std::string text;
  for (std::byte byte : bytes) text += fmt::format("{:02x}", static_cast<unsigned>(byte));
  return text;
}

// The digits without blanks, to compare with to_hex().
inline std::string plain(std::string_view digits) {
  return to_hex(hex(digits));
}

}  // namespace strata::nbd::test
