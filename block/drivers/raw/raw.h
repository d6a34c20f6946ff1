// SPDX-License-Identifier: GPL-2.0-or-later
//
// raw: the format that is none, or a window of a file (`offset`, `size`).
#pragma once

#include "block/graph/driver.h"

namespace strata {

extern const DriverDescriptor kRawDriver;

// For a node of this driver whose format was not named but guessed: from now on a request fails
// (EPERM) after which the image would be taken for one of another format, and whoever opens it next
// would follow what its writer says. Called before the node is in use.
void guard_guessed_format(Node& node) noexcept;

}  // namespace strata
