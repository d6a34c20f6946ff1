// SPDX-License-Identifier: GPL-2.0-or-later
//
// The kind of export that is a vhost-user-blk device on a Unix socket.
#pragma once

#include "block/aio/passed_fds.h"
#include "block/export/registry.h"

namespace strata {

// Makes the kind known to `exports`. `passed` outlives them.
void register_vhost_user_blk(ExportRegistry& exports, PassedFds& passed);

}  // namespace strata
