// SPDX-License-Identifier: GPL-2.0-or-later
//
// GraphPlan: the only way to change the graph.
//
//   GraphPlan plan(loop);
//   plan.set_child(edge, new_child);        // any number of changes
//   plan.prepare();                         // permissions of the graph as it will be; throws Error
//   plan.commit();
//
// Changes are made at once and remembered; a plan that ends without commit() undoes them, and lets
// go of what the drivers took in prepare(). The nodes whose edges move are drained meanwhile, or
// new.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "block/graph/node.h"

namespace strata {

class MainLoop;

class GraphPlan {
 public:
  explicit GraphPlan(MainLoop& loop) noexcept : loop_(loop) {}
  ~GraphPlan();
  GraphPlan(const GraphPlan&) = delete;
  GraphPlan& operator=(const GraphPlan&) = delete;

  // Gives `parent` a new child edge to `child`; it is destroyed again by an undo.
  Edge& add_child(Node& parent, std::string name, ChildRoles roles, NodePtr child);
  // Takes the edge out of its parent; it is destroyed by commit().
  void remove_child(Edge& edge);
  // Moves an edge to another child; null detaches it.
  void set_child(Edge& edge, NodePtr child);
  // What a Backend asks of its root.
  void set_permissions(Edge& root, Permissions permissions);
  // What is in force for a node.
  void set_options(Node& node, NodeOptions options);
  // For a node whose activity changed, or will once its driver's own plan is committed:
  // `undo` is called if the plan is not committed.
  void touch(Node& node, std::function<void()> undo = nullptr);

  // Computes the permissions of all nodes concerned, parents before children, and has the drivers
  // take what they need. Throws Error. At most once.
  void prepare();
  void commit() noexcept;

 private:
  void check_conflicts(const Node& node) const;
  void check_writable(const Node& node, Permissions cumulative) const;
  // Returns those children of which something else is asked now.
  std::vector<Node*> update_children(Node& node, Permissions cumulative);
  void change_permissions(Edge& edge, Permissions permissions);
  std::vector<Node*> affected_in_order() const;

  MainLoop& loop_;
  std::vector<NodePtr> touched_;
  std::vector<const Node*> made_read_only_;
  std::vector<std::function<void()>> undo_;
  std::vector<NodePtr> prepared_;  // their drivers await commit or abort
  std::vector<std::unique_ptr<Edge>> removed_;
  bool committed_ = false;
};

// After an edge to `node` has gone: the rest need less, which cannot fail.
void relax_permissions(MainLoop& loop, Node& node) noexcept;

}  // namespace strata
