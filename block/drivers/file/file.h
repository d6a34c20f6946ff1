// SPDX-License-Identifier: GPL-2.0-or-later
//
// file and host_device: a regular file, and a block or character device, of this host.
#pragma once

#include "block/graph/driver.h"

namespace strata {

extern const DriverDescriptor kFileDriver;
extern const DriverDescriptor kHostDeviceDriver;

}  // namespace strata
