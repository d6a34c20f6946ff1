// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/graph/layer.h"
#include "block/jobs/jobs.h"
#include "qapi/types_block_create.h"

namespace strata {

// Starts a job that changes options of the image `node_name`, which may be in use. Without `force`
// nothing is done that may lose data. Throws Error where it cannot even begin.
Task<void> start_amend_job(MainLoop& loop, BlockLayer& layer, Jobs& jobs, std::string id,
                           std::string node_name, qapi::BlockdevAmendOptions options, bool force);

}  // namespace strata
