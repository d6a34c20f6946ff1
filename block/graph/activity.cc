// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/graph/activity.h"

#include <cerrno>

#include "block/base/error.h"
#include "block/graph/drain.h"
#include "block/graph/plan.h"

namespace strata {
namespace {

// Changes the flag and with it the permissions of the Backends above and of everything below.
void switch_node(MainLoop& loop, Node& node, bool active) {
  GraphPlan plan(loop);
  node.io().inactive = !active;
  plan.touch(node, [&node, active] { node.io().inactive = active; });
  for (Edge* edge : node.parents()) {
    if (edge->parent().parent_node() != nullptr) continue;
    if (auto permissions = edge->parent().permissions_while(active))
      plan.set_permissions(*edge, *permissions);
  }
  plan.prepare();
  plan.commit();
}

bool has_active_parent(const Node& node) {
  for (Edge* edge : node.parents()) {
    Node* parent = edge->parent().parent_node();
    if (parent != nullptr && !parent->io().inactive) return true;
  }
  return false;
}

void check_users_allow_inactivity(const Node& node) {
  for (Edge* edge : node.parents()) {
    if (edge->parent().parent_node() == nullptr && !edge->parent().permissions_while(false))
      throw Error::from_errno(EPERM, "Failed to inactivate node");
  }
}

Task<void> activate(MainLoop& loop, Node& node) {
  for (const auto& edge : node.children()) {
    if (edge->node_ptr()) co_await activate(loop, edge->node());
  }
  if (!node.io().inactive) co_return;
  switch_node(loop, node, true);
  co_await node.driver().activate(loop);
  co_await node.refresh_length();
}

Task<void> inactivate(MainLoop& loop, Node& node) {
  if (node.io().inactive) co_return;
  if (has_active_parent(node)) throw Error("Node has active parent node");
  check_users_allow_inactivity(node);
  DrainedSection drained = co_await DrainedSection::begin(loop, {&node});
  co_await node.driver().inactivate(loop);
  switch_node(loop, node, false);
  for (const auto& edge : node.children()) {
    if (edge->node_ptr() && !has_active_parent(edge->node()))
      co_await inactivate(loop, edge->node());
  }
}

}  // namespace

Task<void> set_active(MainLoop& loop, Node& node, bool active) {
  return active ? activate(loop, node) : inactivate(loop, node);
}

Task<void> set_all_active(MainLoop& loop, BlockLayer& layer, bool active) {
  std::vector<NodePtr> nodes;  // kept alive over the waits
  for (Node* node : layer.nodes()) nodes.push_back(node->shared_from_this());
  for (const NodePtr& node : nodes) {
    // Inactivity is asked of the topmost nodes and goes down from there.
    bool is_root = true;
    for (Edge* edge : node->parents()) is_root = is_root && edge->parent().parent_node() == nullptr;
    if (active || is_root) co_await set_active(loop, *node, active);
  }
}

}  // namespace strata
