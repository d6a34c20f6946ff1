// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/graph/driver.h"

namespace strata {

// A filter that has everything written to the node below compressed.
extern const DriverDescriptor kCompressDriver;

}  // namespace strata
