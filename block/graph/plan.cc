// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/graph/plan.h"

#include <algorithm>
#include <cassert>
#include <ranges>
#include <unordered_set>

#include "block/base/error.h"

namespace strata {
namespace {

void visit_children_first(Node& node, std::unordered_set<Node*>& seen, std::vector<Node*>& order) {
  if (!seen.insert(&node).second) return;
  for (const auto& edge : node.children()) {
    if (edge->node_ptr()) visit_children_first(edge->node(), seen, order);
  }
  order.push_back(&node);
}

}  // namespace

GraphPlan::~GraphPlan() {
  if (committed_) return;
  for (auto node = prepared_.rbegin(); node != prepared_.rend(); ++node)
    (*node)->driver().abort_permissions();
  for (auto undo = undo_.rbegin(); undo != undo_.rend(); ++undo) (*undo)();
}

Edge& GraphPlan::add_child(Node& parent, std::string name, ChildRoles roles, NodePtr child) {
  auto& children = parent.children_;
  children.push_back(std::make_unique<Edge>(parent, std::move(name), roles));
  Edge& edge = *children.back();
  undo_.push_back([&children, &edge] {
    edge.set_child(nullptr);
    std::erase_if(children, [&](const auto& owned) { return owned.get() == &edge; });
  });
  touched_.push_back(parent.shared_from_this());
  touched_.push_back(child);
  edge.set_child(std::move(child));
  return edge;
}

void GraphPlan::remove_child(Edge& edge) {
  Node& parent = *edge.parent().parent_node();
  auto& children = parent.children_;
  set_child(edge, nullptr);
  auto at = std::find_if(children.begin(), children.end(),
                         [&](const auto& owned) { return owned.get() == &edge; });
  size_t index = static_cast<size_t>(at - children.begin());
  removed_.push_back(std::move(*at));
  children.erase(at);
  undo_.push_back([this, &children, index] {
    children.insert(children.begin() + static_cast<long>(index), std::move(removed_.back()));
    removed_.pop_back();
  });
  touched_.push_back(parent.shared_from_this());
}

void GraphPlan::set_child(Edge& edge, NodePtr child) {
  if (child) touched_.push_back(child);
  NodePtr old = edge.set_child(std::move(child));
  if (old) touched_.push_back(old);
  undo_.push_back([&edge, old] { edge.set_child(old); });
}

void GraphPlan::set_permissions(Edge& root, Permissions permissions) {
  change_permissions(root, permissions);
  if (root.node_ptr()) touched_.push_back(root.node_ptr());
}

void GraphPlan::set_options(Node& node, NodeOptions options) {
  if (options.read_only && !node.options_.read_only) made_read_only_.push_back(&node);
  touch(node, [&node, old = node.options_] { node.options_ = old; });
  node.options_ = std::move(options);
}

void GraphPlan::touch(Node& node, std::function<void()> undo) {
  touched_.push_back(node.shared_from_this());
  if (undo) undo_.push_back(std::move(undo));
}

void GraphPlan::change_permissions(Edge& edge, Permissions permissions) {
  undo_.push_back([&edge, old = edge.permissions_] { edge.permissions_ = old; });
  edge.permissions_ = permissions;
}

// Everything touched and all below it, each node after all its parents.
std::vector<Node*> GraphPlan::affected_in_order() const {
  std::unordered_set<Node*> seen;
  std::vector<Node*> order;
  for (const NodePtr& node : touched_) visit_children_first(*node, seen, order);
  std::reverse(order.begin(), order.end());
  return order;
}

void GraphPlan::check_conflicts(const Node& node) const {
  for (const Edge* a : node.parents() | std::views::reverse) {  // who came last is in the wrong
    for (const Edge* b : node.parents() | std::views::reverse) {
      PermissionSet refused = b->permissions().needed.without(a->permissions().shared);
      if (a == b || refused.empty()) continue;
      throw Error(
          "Permission conflict on node '{0}': permissions '{1}' are both required by {2} (uses "
          "node "
          "'{0}' as '{3}' child) and unshared by {4} (uses node '{0}' as '{5}' child).",
          node.name(), describe(refused), b->parent().describe_parent(), b->name(),
          a->parent().describe_parent(), a->name());
    }
  }
}

void GraphPlan::check_writable(const Node& node, Permissions cumulative) const {
  PermissionSet needed = cumulative.needed;
  if (needed.has_any({Permission::write, Permission::write_unchanged}) && !node.is_writable()) {
    bool is_new =
        std::find(made_read_only_.begin(), made_read_only_.end(), &node) != made_read_only_.end();
    if (is_new)
      throw Error("Read-only block node '{}' cannot support read-write users", node.name());
    if (!node.io().inactive) throw Error("Block node is read-only");
  }
  PermissionSet changes =
      needed & PermissionSet{Permission::write, Permission::write_unchanged, Permission::resize};
  if (node.io().inactive && !changes.empty())
    throw Error("Permission '{}' unavailable on inactive node", describe(changes));
  // Where the last unit is not whole, a write to it is widened past the end, which is a resize.
  if (needed.has(Permission::write) && !needed.has(Permission::resize) &&
      !is_aligned(node.length(), node.io().limits.request_alignment)) {
    throw Error(
        "Cannot get 'write' permission without 'resize': Image size is not a multiple of request "
        "alignment");
  }
}

std::vector<Node*> GraphPlan::update_children(Node& node, Permissions cumulative) {
  std::vector<Node*> changed;
  for (const auto& edge : node.children()) {
    if (!edge->node_ptr()) continue;
    Permissions wanted = node.driver().child_permissions(*edge, cumulative);
    if (edge->node().options().force_share) wanted.shared = kAllPermissions;
    if (wanted == edge->permissions()) continue;
    change_permissions(*edge, wanted);
    changed.push_back(&edge->node());
  }
  return changed;
}

void GraphPlan::prepare() {
  assert(prepared_.empty());
  std::unordered_set<const Node*> due;
  for (const NodePtr& node : touched_) due.insert(node.get());
  for (Node* node : affected_in_order()) {
    if (!due.contains(node)) continue;  // nothing above it asks for anything else
    if (!node->has_driver()) continue;  // still being opened: asks for nothing yet
    check_conflicts(*node);
    Permissions cumulative = node->cumulative_permissions();
    check_writable(*node, cumulative);
    node->driver().prepare_permissions(loop_, cumulative);
    prepared_.push_back(node->shared_from_this());
    for (const Node* child : update_children(*node, cumulative)) due.insert(child);
  }
}

void GraphPlan::commit() noexcept {
  assert(!committed_);
  committed_ = true;
  for (const NodePtr& node : prepared_) node->driver().commit_permissions();
}

void relax_permissions(MainLoop& loop, Node& node) noexcept {
  try {
    GraphPlan plan(loop);
    plan.touch(node);
    plan.prepare();
    plan.commit();
  } catch (const Error&) {
    // Needing less is always granted; a driver that fails to give something back keeps it.
  }
}

}  // namespace strata
