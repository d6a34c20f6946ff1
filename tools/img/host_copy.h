// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/graph/node.h"

namespace strata::tools {

// Copies from one image to another inside the host, which may share the bytes instead. Returns how
// many were copied; 0: none, as the images are not files of the host, whole and as they are, or as
// the host cannot. The target is as long already.
Task<uint64_t> copy_in_host(Node& from, uint64_t offset, Node& to, uint64_t to_offset,
                            uint64_t bytes);

}  // namespace strata::tools
