// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/graph/edge.h"

#include <algorithm>
#include <utility>

#include "block/graph/layer.h"
#include "block/graph/node.h"
#include "block/graph/plan.h"

namespace strata {

Edge::~Edge() {
  NodePtr child = set_child(nullptr);
  // Where this was the last hold, the child goes now, and its own edges after it.
  if (child.use_count() > 1) relax_permissions(child->layer().main_loop(), *child);
}

NodePtr Edge::set_child(NodePtr child) noexcept {
  if (child_) std::erase(child_->parents_, this);
  NodePtr old = std::exchange(child_, std::move(child));
  if (child_) child_->parents_.push_back(this);
  return old;
}

}  // namespace strata
