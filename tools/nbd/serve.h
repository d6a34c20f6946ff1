// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <functional>

#include "block/aio/socket_address.h"
#include "block/base/unique_fd.h"
#include "tools/common/tool.h"
#include "tools/nbd/command_line.h"

namespace strata::tools {

// What is set up before anything is opened.
struct NbdStart {
  NbdCommandLine line;
  UniqueFd signals;             // readable once the server is to end
  std::optional<int> passed;    // a listening socket that systemd handed down
  std::function<void()> ready;  // everything is set up
};

// Serves the image until the last client has gone, or a signal says so; the exit status. Throws
// Error.
Task<int> serve_image(Tool& tool, NbdStart& start);

// Prints what another server has; the exit status. Throws Error.
Task<int> list_exports(Tool& tool, const NbdCommandLine& line);

// Where the server listens, or the other one does.
SocketAddress nbd_address(const NbdCommandLine& line);

}  // namespace strata::tools
