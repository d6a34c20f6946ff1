// SPDX-License-Identifier: GPL-2.0-or-later
//
// The kind of export that is a file, mounted over another one by FUSE.
#pragma once

#include <memory>

#include "block/export/fuse/mount.h"
#include "block/export/registry.h"

namespace strata {

// Makes the kind known to `exports`. `mounter` is null where nobody may mount.
void register_fuse(ExportRegistry& exports, std::shared_ptr<fuse_export::Mounter> mounter);

}  // namespace strata
