// SPDX-License-Identifier: GPL-2.0-or-later
//
// Errors between this system's errno and the wire (section "Error values").
#pragma once

#include "block/nbd/protocol.h"

namespace strata::nbd {

// `error` is a positive errno, or 0 for success. What the protocol has no value for becomes EINVAL.
WireError to_wire_error(int error) noexcept;

// A positive errno, or 0. `error` is as the peer sent it; what is not defined becomes EINVAL.
int from_wire_error(WireError error) noexcept;

}  // namespace strata::nbd
