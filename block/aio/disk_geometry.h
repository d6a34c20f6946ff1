// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/aio/disk.h"

namespace strata {

// Finds out what the kernel demands of requests to `fd`, a file or block device; with `direct` the
// descriptor has O_DIRECT and must be readable. Throws Error where no alignment works.
DiskGeometry probe_geometry(int fd, bool direct);

}  // namespace strata
