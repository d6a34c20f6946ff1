// SPDX-License-Identifier: GPL-2.0-or-later
//
// The state of a machine, kept in an image beside what a guest sees; as in block/graph/driver.h.
#pragma once

#include "block/graph/node.h"

namespace strata::io {

inline Task<Status> load_vm_state(Node& node, uint64_t offset, IoVector into) {
  return node.driver().load_vm_state(offset, into);
}

inline Task<Status> save_vm_state(Node& node, uint64_t offset, IoVector from) {
  if (!node.is_writable()) co_return Status::error(EPERM);
  Status status = co_await node.driver().save_vm_state(offset, from);
  // Whichever it was that wrote; where it failed, what was written has been noted below.
  for (Node* at = status.ok() ? &node : nullptr; at != nullptr;) {
    at->io().dirty = true;
    Edge* primary = at->child_in_role(ChildRole::primary);
    at = primary != nullptr ? &primary->node() : nullptr;
  }
  co_return status;
}

}  // namespace strata::io
