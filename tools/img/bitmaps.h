// SPDX-License-Identifier: GPL-2.0-or-later
//
// Persistent bitmaps as convert deals with them. All throw Error.
#pragma once

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

}  // namespace strata::tools
