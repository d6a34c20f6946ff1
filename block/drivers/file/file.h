// SPDX-License-Identifier: GPL-2.0-or-later
//
// file and host_device: a regular file, and a block or character device, of this host.
#pragma once

#include "block/graph/driver.h"

namespace strata {

class Disk;

extern const DriverDescriptor kFileDriver;
extern const DriverDescriptor kHostDeviceDriver;

// What a node of one of them reads and writes; null for other nodes.
Disk* host_disk_of(const Node& node) noexcept;

}  // namespace strata
