// SPDX-License-Identifier: GPL-2.0-or-later
//
// blkdebug: a filter that fails or stops requests when it is told to, for tests.
#pragma once

#include "block/drivers/blkdebug/rules.h"
#include "block/graph/driver.h"

namespace strata {

extern const DriverDescriptor kBlkdebugDriver;

// The rules of the first blkdebug node on the way from `node` to its data; null if there is none.
blkdebug::RuleBook* debug_rules_of(Node& node) noexcept;

}  // namespace strata
