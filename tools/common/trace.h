// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>

namespace strata::tools {

// The argument of --trace; takes effect at once. False where only the list of trace points was
// wanted, which is printed. Throws Error.
bool take_trace(const std::string& value);

}  // namespace strata::tools
