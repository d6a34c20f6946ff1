// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/jobs/jobs.h"
#include "qapi/types_block_create.h"

namespace strata {

// Starts the job that makes an image, for blockdev-create. Throws Error.
void start_create_job(MainLoop& loop, BlockLayer& layer, Jobs& jobs, std::string id,
                      qapi::BlockdevCreateOptions options);

}  // namespace strata
