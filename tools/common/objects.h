// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace strata::tools {

// The argument of --object: an object that images refer to, such as a secret. Throws Error.
void define_object(const std::string& definition);

// The answer to --object help and --object TYPE,help; nothing where help is not asked for. Throws
// Error where the definition cannot be read.
std::optional<std::string> object_help(const std::string& definition);

// What a secret defined so far holds; nothing where there is none of that id.
std::optional<std::string> find_defined_secret(std::string_view id);

}  // namespace strata::tools
