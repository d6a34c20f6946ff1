// SPDX-License-Identifier: GPL-2.0-or-later
//
// nbd: the export of an NBD server as a node.
#pragma once

#include "block/graph/driver.h"

namespace strata {

extern const DriverDescriptor kNbdDriver;

}  // namespace strata
