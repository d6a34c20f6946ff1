// SPDX-License-Identifier: GPL-2.0-or-later
//
// The kind of export that is a vhost-user-blk device on a Unix socket.
#pragma once

#include "block/aio/passed_fds.h"
#include "block/export/descriptor_store.h"
#include "block/export/registry.h"

namespace strata {

// Makes the kind known to `exports`. `passed` outlives them, and so does `store`, which is null
// where no successor can be left anything.
void register_vhost_user_blk(ExportRegistry& exports, PassedFds& passed,
                             DescriptorStore* store = nullptr);

}  // namespace strata
