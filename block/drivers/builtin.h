// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <span>

#include "block/graph/driver.h"

namespace strata {

// Every driver there is: the one table that names them.
std::span<const DriverDescriptor* const> builtin_drivers() noexcept;

}  // namespace strata
