// SPDX-License-Identifier: GPL-2.0-or-later
//
// Active and inactive nodes: an image that another process owns for now (the other side of a
// migration) is not written, nor are its caches trusted, until it is activated.
#pragma once

#include "block/graph/layer.h"

namespace strata {

// Makes `node` active, its children first; or inactive, and then the children that no active node
// uses. Throws Error: a parent is active, a user does not allow it, or permissions conflict.
Task<void> set_active(MainLoop& loop, Node& node, bool active);
// The same for all nodes of a layer.
Task<void> set_all_active(MainLoop& loop, BlockLayer& layer, bool active);

}  // namespace strata
