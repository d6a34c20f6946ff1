// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <optional>
#include <string>

#include "block/graph/driver.h"

namespace strata {

extern const DriverDescriptor kQcow2Driver;

namespace qcow2 {

class Image;
class PersistentBitmaps;
// What is behind a node of this driver; null for others. For commands on the format itself
// (snapshots, check), while the node is drained.
Image* image_of(const Node& node) noexcept;
PersistentBitmaps* bitmaps_of(const Node& node) noexcept;

// Which of an image's snapshots is meant: both, where both are given.
struct SnapshotName {
  std::optional<std::string> id;
  std::optional<std::string> name;
};
// Makes a node that was opened to be read show a snapshot in the place of the disk. `any`: an id,
// or else a name. Throws Error.
Task<void> show_snapshot(Node& node, SnapshotName which);
Task<void> show_snapshot(Node& node, std::string any);

}  // namespace qcow2

}  // namespace strata
