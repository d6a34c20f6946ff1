// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a job's state allows: two tables, and nothing else decides it.
#pragma once

#include <string_view>

#include "qapi/types_job.h"

namespace strata {

bool job_may_become(qapi::JobStatus from, qapi::JobStatus to) noexcept;
bool job_accepts(qapi::JobStatus status, qapi::JobVerb verb) noexcept;

}  // namespace strata
