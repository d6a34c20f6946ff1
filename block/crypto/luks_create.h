// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/graph/layer.h"
#include "qapi/types_block_create.h"

namespace strata::crypto {

// What blockdev-create does for the driver luks. The files named by the options exist; they are
// opened, or referred to by node name, and everything in them is overwritten. Throws Error.
Task<void> create_luks(MainLoop& loop, BlockLayer& layer, qapi::BlockdevCreateOptionsLUKS options);

}  // namespace strata::crypto
