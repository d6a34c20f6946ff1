// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/coro/task.h"

namespace strata::qapi {
struct BlockdevCreateOptions;
}

namespace strata {

class BlockLayer;
class MainLoop;

// Makes a regular file, or empties the one that is there, and gives it its size. Others that have
// it open with locks are respected. Throws Error.
Task<void> create_file(MainLoop& loop, BlockLayer& layer,
                       const qapi::BlockdevCreateOptions& options);

}  // namespace strata
