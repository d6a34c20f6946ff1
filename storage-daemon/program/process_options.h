// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <optional>
#include <string>

#include "block/aio/main_loop.h"
#include "block/coro/task.h"
#include "storage-daemon/program/command_line.h"

namespace strata {

class Daemon;

// Carries out the options in their order, until one fails or the daemon is told to end. Yields a
// text if one asked for help: the program prints it and ends. Throws Error with a text that says
// where.
Task<std::optional<std::string>> process_options(MainLoop& loop, Daemon& daemon,
                                                 const CommandLine& line);

}  // namespace strata
