// SPDX-License-Identifier: GPL-2.0-or-later
//
// What all ways of reading a node share.
#pragma once

#include "block/graph/node.h"

namespace strata::io {

// Any range that is not empty, in whole units and pieces as the driver likes them. Not counted.
Task<Status> read_range(Node& node, uint64_t offset, IoVector into);

}  // namespace strata::io
