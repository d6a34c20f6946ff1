// SPDX-License-Identifier: GPL-2.0-or-later
//
// An edge of the graph: a parent's hold on a child node. Owned by the parent.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "block/graph/permissions.h"

namespace strata {

class Gate;
class Node;
using NodePtr = std::shared_ptr<Node>;

// Who can hold an edge: a node, or a Backend (an export, a job, a tool) at the top of the graph.
class EdgeParent {
 public:
  virtual ~EdgeParent() = default;
  // As error texts name it: "node 'a'", "block device 'b'".
  virtual std::string describe_parent() const = 0;
  // Null for a Backend.
  virtual Node* parent_node() noexcept { return nullptr; }
  // A Backend's: where its requests come in. Null for a node.
  virtual Gate* request_gate() noexcept { return nullptr; }
  // The child has a new size.
  virtual void child_resized() noexcept {}
  // Whether the parent keeps the child's AioContext from being changed.
  virtual bool allows_context_change() const noexcept { return true; }
  // A Backend's name in the block graph; empty for most.
  virtual std::string parent_name() const { return {}; }
  // What a Backend asks of its node while that is active or not; none where it does not let the
  // node become inactive.
  virtual std::optional<Permissions> permissions_while(bool active) const { return std::nullopt; }
};

// I/O reads the child without a lock: an edge moves only while no request can be on it (the gates
// above it are shut). Everything else is the main loop's.
class Edge {
 public:
  // Only a GraphPlan and the owners' containers make and move edges.
  Edge(EdgeParent& parent, std::string name, ChildRoles roles)
      : parent_(parent), name_(std::move(name)), roles_(roles) {}
  ~Edge();
  Edge(const Edge&) = delete;
  Edge& operator=(const Edge&) = delete;

  Node& node() const noexcept { return *child_; }
  const NodePtr& node_ptr() const noexcept { return child_; }
  EdgeParent& parent() const noexcept { return parent_; }
  const std::string& name() const noexcept { return name_; }
  ChildRoles roles() const noexcept { return roles_; }
  // For the parent's driver, while no request is there.
  void set_roles(ChildRoles roles) noexcept { roles_ = roles; }
  bool has_role(ChildRole role) const noexcept { return roles_.has(role); }
  const Permissions& permissions() const noexcept { return permissions_; }
  bool is_frozen() const noexcept { return frozen_; }
  void set_frozen(bool frozen) noexcept { frozen_ = frozen; }

 private:
  friend class GraphPlan;

  // Links to `child` (or to nothing), with both sides kept in step; returns the child it had.
  NodePtr set_child(NodePtr child) noexcept;

  EdgeParent& parent_;
  std::string name_;
  ChildRoles roles_;
  Permissions permissions_{{}, kAllPermissions};
  NodePtr child_;
  bool frozen_ = false;  // a job relies on this link: it must not move
};

}  // namespace strata
