// SPDX-License-Identifier: GPL-2.0-or-later
//
// Numbers and switches given as text, with QEMU's rules. Each returns nothing for text it refuses.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "block/base/error.h"

namespace strata::qapi {

// Decimal, 0x hexadecimal or 0 octal, with a sign. Unsigned text may be negative and then wraps.
std::optional<std::int64_t> parse_int64(const std::string& text);
std::optional<std::uint64_t> parse_uint64(const std::string& text);
std::optional<double> parse_number(const std::string& text);
// on, yes, true, y / off, no, false, n.
std::optional<bool> parse_switch(const std::string& text);
// Bytes, with a suffix of B, K, M, G, T, P or E (powers of 1024, either case) and, before a suffix
// above B, a decimal fraction; or plain hexadecimal.
std::optional<std::uint64_t> parse_size(const std::string& text);
// Why `parameter` cannot be `text`, which is no size.
Error not_a_size(std::string_view parameter, std::string_view text);
Error not_a_size(std::string_view parameter, std::int64_t negative);

}  // namespace strata::qapi
