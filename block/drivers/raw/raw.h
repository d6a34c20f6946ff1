// SPDX-License-Identifier: GPL-2.0-or-later
//
// raw: the format that is none, or a window of a file (`offset`, `size`).
#pragma once

#include "block/graph/driver.h"

namespace strata {

extern const DriverDescriptor kRawDriver;

}  // namespace strata
