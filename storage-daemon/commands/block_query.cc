// SPDX-License-Identifier: GPL-2.0-or-later
//
// Commands that ask about nodes.
#include "block/graph/query.h"
#include "qapi/commands_block_graph.h"
#include "qapi/commands_block_info.h"
#include "qapi/commands_block_stats.h"
#include "storage-daemon/commands/families.h"
#include "storage-daemon/daemon.h"

namespace strata {
namespace {

namespace cmd = qapi::cmd;

// Block devices are a system emulator's. Here only nodes and exports exist.
std::vector<qapi::BlockInfo> query_block(CommandContext&, qapi::NoArguments) {
  return {};
}

std::vector<qapi::BlockStats> query_blockstats(CommandContext& context,
                                               cmd::QueryBlockstats::Arguments arguments) {
  std::vector<qapi::BlockStats> stats;
  if (!arguments.query_nodes.value_or(false)) return stats;
  for (const Node* node : context.daemon.layer().nodes()) {
    if (node->is_open()) stats.push_back(describe_stats(*node, true));
  }
  return stats;
}

std::vector<qapi::BlockDeviceInfo> query_named_block_nodes(
    CommandContext& context, cmd::QueryNamedBlockNodes::Arguments arguments) {
  return describe_named_nodes(context.daemon.layer(), arguments.flat.value_or(false));
}

qapi::XDbgBlockGraph x_debug_query_block_graph(CommandContext& context, qapi::NoArguments) {
  return describe_graph(context.daemon.layer());
}

}  // namespace

void serve_block_query_commands(CommandTable& table) {
  table.serve<cmd::QueryBlock>(&query_block);
  table.serve<cmd::QueryBlockstats>(&query_blockstats);
  table.serve<cmd::QueryNamedBlockNodes>(&query_named_block_nodes);
  table.serve<cmd::XDebugQueryBlockGraph>(&x_debug_query_block_graph);
}

}  // namespace strata
