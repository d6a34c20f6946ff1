// SPDX-License-Identifier: GPL-2.0-or-later
//
// The two conventions of systemd: readiness told through $NOTIFY_SOCKET, and sockets passed in.
#pragma once

#include <string_view>

#include "block/aio/passed_fds.h"

namespace strata {

// Sends `state` ("READY=1"), and a descriptor with it; does nothing where nobody asked.
void notify_service_manager(std::string_view state, int fd = -1) noexcept;

// Names the passed sockets after $LISTEN_FDNAMES. Before daemonizing: the variables say for which
// process they are.
void name_activated_sockets(PassedFds& passed);

// A variable's number; -1 where it is not set, or none.
long environment_number(const char* name) noexcept;

}  // namespace strata
