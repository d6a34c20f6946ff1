// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/graph/driver.h"

namespace strata {

extern const DriverDescriptor kQcow2Driver;

namespace qcow2 {

class Image;
// What is behind a node of this driver; null for others. For commands on the format itself
// (snapshots, check), while the node is drained.
Image* image_of(const Node& node) noexcept;

}  // namespace qcow2

}  // namespace strata
