// SPDX-License-Identifier: GPL-2.0-or-later
//
// The kind of export that is a file, mounted over another one by FUSE.
#pragma once

#include "block/export/registry.h"

namespace strata {

// Makes the kind known to `exports`.
void register_fuse(ExportRegistry& exports);

}  // namespace strata
