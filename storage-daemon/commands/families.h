// SPDX-License-Identifier: GPL-2.0-or-later
//
// The commands that are served, a family each. A command that is not here does not exist for
// clients.
#pragma once

#include "storage-daemon/commands/context.h"

namespace strata {

void serve_bitmap_commands(CommandTable& table);
void serve_block_commands(CommandTable& table);
void serve_block_query_commands(CommandTable& table);
void serve_chardev_commands(CommandTable& table);
void serve_check_commands(CommandTable& table);
void serve_descriptor_commands(CommandTable& table);
void serve_export_commands(CommandTable& table);
void serve_job_commands(CommandTable& table);
void serve_monitor_commands(CommandTable& table);
void serve_object_commands(CommandTable& table);

CommandTable make_command_table();

}  // namespace strata
