// SPDX-License-Identifier: GPL-2.0-or-later
//
// Drained sections: no request is on a subtree, and none comes.
#pragma once

#include <vector>

#include "block/coro/gate.h"
#include "block/graph/node.h"

namespace strata {

class MainLoop;

// Both halves of a flush, for a whole subtree that no request is on; the first error.
Task<Status> flush_tree(Node& node);

// Shuts the gates of all Backends above its nodes. Sections nest and overlap freely. Never begun
// from inside a request: it would wait for itself.
class DrainedSection {
 public:
  DrainedSection() noexcept = default;
  DrainedSection(DrainedSection&& other) noexcept : gates_(std::move(other.gates_)) {
    other.gates_.clear();
  }
  DrainedSection& operator=(DrainedSection&& other) noexcept {
    std::swap(gates_, other.gates_);
    return *this;
  }
  ~DrainedSection() { end(); }

  // Ends when the last request above `nodes` has.
  static Task<DrainedSection> begin(MainLoop& loop, std::vector<Node*> nodes);
  void end() noexcept;

 private:
  std::vector<Gate*> gates_;
};

}  // namespace strata
