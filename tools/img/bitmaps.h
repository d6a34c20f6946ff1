// SPDX-License-Identifier: GPL-2.0-or-later
//
// Persistent bitmaps as convert and measure deal with them. All throw Error.
#pragma once

#include <cstdint>

#include "block/graph/node.h"

namespace strata {
class MainLoop;
}

namespace strata::tools {

// Whether `from` has only bitmaps that can be copied, or `skip_broken`.
void check_bitmaps(const Node& from, bool skip_broken);
// Gives `to` the persistent bitmaps of `from`, disabled as copies are. Inconsistent ones are left
// out with a warning. Nobody writes to either.
Task<void> copy_bitmaps(MainLoop& loop, Node& from, Node& to);
// What they would occupy in an image with such clusters, in bytes.
uint64_t measure_bitmaps(const Node& from, uint64_t cluster_size);

}  // namespace strata::tools
