// SPDX-License-Identifier: GPL-2.0-or-later
//
// The backing file as an image names it.
#pragma once

#include <optional>
#include <string>

#include "block/graph/open.h"

namespace strata::qcow2 {

// Relative names start from where `overlay` is (a plain file name; empty: there is none, and such a
// name is refused). Names of protocols and json: are not followed here. Throws Error.
std::string resolve_backing_name(const std::string& name, const std::string& overlay);

// What opens it. Without a format the file is looked into: qcow2, or raw. Throws Error.
Task<qapi::BlockdevRef> backing_reference(OpenContext& context, std::string name,
                                          std::optional<std::string> format);

// The same for a file without a format.
qapi::BlockdevRef file_reference(const std::string& path);

}  // namespace strata::qcow2
