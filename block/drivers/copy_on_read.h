// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/graph/driver.h"

namespace strata {

// copy-on-read: a filter whose reads write to the node below what that has from its backing files.
extern const DriverDescriptor kCopyOnReadDriver;

}  // namespace strata
