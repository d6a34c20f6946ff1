// SPDX-License-Identifier: GPL-2.0-or-later
//
// Names of the protocol's numbers as they stand in error texts and traces: "set meta context",
// "read". What has no name is "<unknown>".
#pragma once

#include <string_view>

#include "block/nbd/protocol.h"

namespace strata::nbd {

std::string_view to_string(Option option) noexcept;
std::string_view to_string(OptionReply reply) noexcept;
std::string_view to_string(Command command) noexcept;

}  // namespace strata::nbd
