// SPDX-License-Identifier: GPL-2.0-or-later
//
// null-co and null-aio: a disk that forgets. For measuring what everything else costs.
#pragma once

#include "block/graph/driver.h"

namespace strata {

extern const DriverDescriptor kNullCoDriver;
extern const DriverDescriptor kNullAioDriver;

}  // namespace strata
