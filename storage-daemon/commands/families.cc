// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/commands/families.h"

namespace strata {

CommandTable make_command_table() {
  CommandTable table;
  serve_bitmap_commands(table);
  serve_block_commands(table);
  serve_block_query_commands(table);
  serve_chardev_commands(table);
  serve_check_commands(table);
  serve_descriptor_commands(table);
  serve_export_commands(table);
  serve_job_commands(table);
  serve_monitor_commands(table);
  serve_object_commands(table);
  return table;
}

}  // namespace strata
