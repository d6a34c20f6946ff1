// SPDX-License-Identifier: GPL-2.0-or-later
//
// raw: the format that is none, or a window of a file (`offset`, `size`).
//
// Where the format was guessed a request fails (EPERM) after which the image would be taken for one
// of another format, and whoever opens it next would follow what its writer says.
#pragma once

#include "block/graph/driver.h"

namespace strata {

extern const DriverDescriptor kRawDriver;

}  // namespace strata
