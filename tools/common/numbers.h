// SPDX-License-Identifier: GPL-2.0-or-later
//
// Sizes as people type and read them.
#pragma once

#include <cstdint>
#include <string>

#include "block/base/result.h"

namespace strata::tools {

// A non-negative number below 2^63, with a suffix of b, k, M, G, T, P or E, in bytes without one.
// ERANGE for one that is too large, EINVAL for what is none.
Result<int64_t> parse_size(const std::string& text);

// Three digits and a binary unit: "1.5 MiB", "0 B".
std::string human_size(uint64_t bytes);

}  // namespace strata::tools
