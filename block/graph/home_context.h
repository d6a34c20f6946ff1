// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/graph/layer.h"

namespace strata {

// Makes `context` the home of `node` and of all nodes it is connected with, up and down. Throws
// Error if one of their users holds them where they are. Requests go on: a home is where background
// work and new users run, and I/O may come from any context.
void set_home_context(MainLoop& loop, Node& node, AioContext& context);

}  // namespace strata
