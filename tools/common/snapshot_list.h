// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>
#include <vector>

#include "qapi/types_block_info.h"

namespace strata::tools {

// The table for people, with its title; empty where there are none.
std::string snapshot_list_text(const std::vector<qapi::SnapshotInfo>& snapshots);

}  // namespace strata::tools
