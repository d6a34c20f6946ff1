// SPDX-License-Identifier: GPL-2.0-or-later
//
// What QMP's queries say about the graph.
#pragma once

#include "block/graph/layer.h"
#include "qapi/types_block_info.h"

namespace strata {

// For query-named-block-nodes and query-block: `flat` leaves out the images behind.
qapi::BlockDeviceInfo describe_device(const Node& node, bool flat);
// The image alone, without its backing files.
qapi::BlockNodeInfo describe_image(const Node& node);
// All nodes, the latest first.
std::vector<qapi::BlockDeviceInfo> describe_named_nodes(const BlockLayer& layer, bool flat);

// For query-blockstats: the node's counters; with `recurse`, those of its file and backing file in
// it.
qapi::BlockStats describe_stats(const Node& node, bool recurse);

// For x-debug-query-block-graph.
qapi::XDbgBlockGraph describe_graph(const BlockLayer& layer);

}  // namespace strata
