// SPDX-License-Identifier: GPL-2.0-or-later
//
// The kind of export that is a vDPA device whose data path is ours.
#pragma once

#include "block/export/descriptor_store.h"
#include "block/export/registry.h"
#include "block/export/vduse/kernel.h"

namespace strata {

// Makes the kind known to `exports`. The kernel and the store, which may be null, outlive it.
void register_vduse_blk(ExportRegistry& exports, DescriptorStore* store,
                        vduse::Kernel& kernel = vduse::Kernel::real());

}  // namespace strata
