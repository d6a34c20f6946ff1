// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which internal snapshot is meant by -l.
#pragma once

#include <optional>
#include <string>

#include "block/graph/node.h"

namespace strata::tools {

struct SnapshotChoice {
  std::optional<std::string> any;  // an ID or else a name
  std::optional<std::string> id;
  std::optional<std::string> name;
};

// "ID_OR_NAME", or "snapshot.id=ID,snapshot.name=NAME" with one or both of them. Throws Error.
SnapshotChoice parse_snapshot_choice(const std::string& text);

// Lets the node, which is read-only, show what it held then. Throws Error.
Task<void> show_snapshot(Node& node, SnapshotChoice choice);

}  // namespace strata::tools
