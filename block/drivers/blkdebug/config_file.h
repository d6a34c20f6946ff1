// SPDX-License-Identifier: GPL-2.0-or-later
//
// blkdebug's rules as a file:
//
//   [inject-error]
//   event = "read_aio"
//   errno = "5"
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "block/drivers/blkdebug/rules.h"

namespace strata::blkdebug {

// Throws Error.
std::vector<Rule> parse_config(std::string_view text);
std::vector<Rule> read_config(const std::string& path);

}  // namespace strata::blkdebug
