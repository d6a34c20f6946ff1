// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/graph/edge.h"
#include "block/io/request.h"

namespace strata::io {

// Makes `child` hold all of the range itself: what it would read from further down is written to
// it. The edge needs one of the write permissions. Rules as in request.h.
Task<Status> populate(Edge& child, uint64_t offset, uint64_t bytes);

// The same, and reads the range, of which nothing is fetched from further down twice.
Task<Status> read_and_populate(Edge& child, uint64_t offset, IoVector into);

}  // namespace strata::io
