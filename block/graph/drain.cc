// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/graph/drain.h"

#include <algorithm>

namespace strata {
namespace {

void collect_gates(Node& node, std::vector<Gate*>& gates) {
  for (Edge* edge : node.parents()) {
    if (Gate* gate = edge->parent().request_gate()) {
      if (std::find(gates.begin(), gates.end(), gate) == gates.end()) gates.push_back(gate);
    }
    if (Node* parent = edge->parent().parent_node()) collect_gates(*parent, gates);
  }
}

// What was written to the node, unless nobody cares whether it is on the medium.
Task<Status> flush_written(Node& node) {
  if (node.options().cache_no_flush || !node.io().dirty.exchange(false)) co_return Status();
  Status status = co_await node.driver().flush();
  if (!status.ok()) node.io().dirty = true;
  co_return status;
}

}  // namespace

Task<Status> flush_tree(Node& node) {
  Status result = co_await node.driver().write_back();
  for (const auto& edge : node.children()) {
    if (!edge->node_ptr()) continue;
    Status status = co_await flush_tree(edge->node());
    if (result.ok()) result = status;
  }
  Status status = co_await flush_written(node);
  if (result.ok()) result = status;
  co_return result;
}

Task<DrainedSection> DrainedSection::begin(MainLoop&, std::vector<Node*> nodes) {
  DrainedSection section;
  for (Node* node : nodes) collect_gates(*node, section.gates_);
  // All are shut before any is waited for: requests may depend on one another across them.
  for (Gate* gate : section.gates_) gate->begin_shut();
  for (Gate* gate : section.gates_) co_await gate->empty();
  co_return section;
}

void DrainedSection::end() noexcept {
  for (Gate* gate : gates_) gate->open();
  gates_.clear();
}

}  // namespace strata
