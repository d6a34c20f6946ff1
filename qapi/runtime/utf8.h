// SPDX-License-Identifier: GPL-2.0-or-later
//
// Code points in QEMU's "modified UTF-8": UTF-8, where U+0000 is the two bytes C0 80.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace strata::qapi {

// Takes one code point off the front of `text`, which is not empty. Returns -1 for a sequence that
// is overlong, truncated, a surrogate, a noncharacter or beyond U+10FFFF, and takes that off.
std::int32_t take_code_point(std::string_view& text) noexcept;

// Whether `code` is a Unicode character: no surrogate, no noncharacter.
bool is_character(std::int32_t code) noexcept;

// Appends a valid code point.
void append_code_point(std::string& out, std::int32_t code);

}  // namespace strata::qapi
