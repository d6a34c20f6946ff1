// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/qcow2/format/geometry.h"

namespace strata::qcow2 {

// Slices are numbered through the whole virtual disk.
using SliceIndex = Index<struct SliceIndexTag>;

}  // namespace strata::qcow2
