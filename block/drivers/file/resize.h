// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstdint>

#include "block/aio/disk.h"
#include "block/graph/driver.h"

namespace strata {

// Makes a disk `size` bytes long, and reserves or writes the new space as asked. A device keeps its
// size, and that will do where `options` are content with more. Throws Error, with the old size.
Task<void> resize_disk(Disk& disk, uint64_t size, TruncateOptions options);

}  // namespace strata
