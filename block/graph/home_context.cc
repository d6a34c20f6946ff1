// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/graph/home_context.h"

#include <unordered_set>

#include "block/base/error.h"

namespace strata {
namespace {

void collect_connected(Node& node, std::unordered_set<Node*>& connected) {
  if (!connected.insert(&node).second) return;
  for (const auto& edge : node.children()) {
    if (edge->node_ptr()) collect_connected(edge->node(), connected);
  }
  for (Edge* edge : node.parents()) {
    if (Node* parent = edge->parent().parent_node()) {
      collect_connected(*parent, connected);
    } else if (!edge->parent().allows_context_change()) {
      throw Error("Cannot change iothread of active block backend");
    }
  }
}

}  // namespace

void set_home_context(MainLoop&, Node& node, AioContext& context) {
  std::unordered_set<Node*> connected;
  collect_connected(node, connected);
  for (Node* member : connected) member->set_home_context(context);
}

}  // namespace strata
