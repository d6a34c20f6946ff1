// SPDX-License-Identifier: GPL-2.0-or-later
//
// Points on the way of a request that a test may want to act on (the driver blkdebug): who reaches
// one tells the node it is about to use. Where that node does not listen, it costs a test of a
// flag.
#pragma once

#include "block/graph/driver.h"
#include "block/graph/edge.h"
#include "block/graph/node.h"

namespace strata::io {

inline Task<void> debug_event(Node& node, qapi::BlkdebugEvent event) {
  if (!node.io().hears_events) [[likely]]
    return Task<void>::ready();
  return node.driver().debug_event(event);
}

inline Task<void> debug_event(Edge& child, qapi::BlkdebugEvent event) {
  return debug_event(child.node(), event);
}

}  // namespace strata::io
