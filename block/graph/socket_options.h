// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/aio/socket_address.h"
#include "qapi/types_sockets.h"

namespace strata {

// The schema's form to that of block/aio.
SocketAddress to_socket_address(const qapi::SocketAddressLegacy& address);
SocketAddress to_socket_address(const qapi::SocketAddress& address);

}  // namespace strata
