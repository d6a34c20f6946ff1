// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>
#include <string_view>

namespace strata {

std::string encode_base64(std::string_view data);
// Line breaks are skipped. Throws Error.
std::string decode_base64(std::string_view text);

}  // namespace strata
