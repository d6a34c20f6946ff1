// SPDX-License-Identifier: GPL-2.0-or-later
//
// A process beside one that gives up its rights, and mounts for it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "block/export/fuse/mount.h"

namespace strata::fuse_export {

// Begins such a process, with the rights that this one has now, and yields a Mounter that asks it.
// It mounts over regular files in `directories` and below, and what it has mounted it unmounts when
// this process ends, however that comes about. To be called before there are threads. Throws
// Error.
std::shared_ptr<Mounter> start_mount_process(std::vector<std::string> directories);

}  // namespace strata::fuse_export
