// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/graph/layer.h"
#include "qapi/types_block_create.h"

namespace strata::qcow2 {

// What blockdev-create does for the driver qcow2. The files named by the options exist; they are
// opened, or referred to by node name, and everything in them is overwritten. Throws Error.
Task<void> create(MainLoop& loop, BlockLayer& layer, qapi::BlockdevCreateOptionsQcow2 options);

}  // namespace strata::qcow2
