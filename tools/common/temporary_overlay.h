// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/graph/node.h"
#include "tools/common/tool.h"

namespace strata::tools {

// An image over `base` that takes the writes and is gone when it is closed. Throws Error.
Task<NodePtr> temporary_overlay(Tool& tool, NodePtr base);

}  // namespace strata::tools
