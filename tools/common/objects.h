// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>

namespace strata::tools {

// The argument of --object: an object that images refer to, such as a secret. Throws Error.
void define_object(const std::string& definition);

}  // namespace strata::tools
