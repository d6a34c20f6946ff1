// SPDX-License-Identifier: GPL-2.0-or-later
//
// JSON text as QEMU writes it, byte for byte: the order of members too, which is that of QEMU's
// dictionaries and not that of insertion.
#pragma once

#include <boost/json/value.hpp>
#include <cstdio>
#include <string>
#include <string_view>

namespace strata::qapi {

enum class JsonStyle {
  compact,  // {"return": {"a": [1, 2]}}
  pretty,   // one member or element a line, four spaces a level
};

// ASCII only: other characters are escaped, what is no character becomes U+FFFD. No newline at the
// end.
std::string write_json(const boost::json::value& value, JsonStyle style = JsonStyle::compact);
// The same to a file, and a newline: however much it is, little of it is in memory.
void print_json(std::FILE* to, const boost::json::value& value, JsonStyle style);

// The place of a key among others: members are written in ascending order of it.
std::uint32_t dictionary_bucket(std::string_view key) noexcept;

}  // namespace strata::qapi
