// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/coro/task.h"
#include "qapi/runtime/command_table.h"

namespace strata {

class Daemon;
class MainLoop;
class QmpSession;

// What a command works with.
struct CommandContext {
  Daemon& daemon;
  MainLoop& loop;
  QmpSession& session;
};

using CommandTable = qapi::CommandTable<CommandContext>;

}  // namespace strata
