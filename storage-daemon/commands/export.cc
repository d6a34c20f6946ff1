// SPDX-License-Identifier: GPL-2.0-or-later
//
// Exports and the NBD server.
#include "block/base/error.h"
#include "block/graph/socket_options.h"
#include "qapi/commands_block_export.h"
#include "storage-daemon/commands/families.h"
#include "storage-daemon/daemon.h"

namespace strata {
namespace {

namespace cmd = qapi::cmd;

Task<void> block_export_add(CommandContext& context, qapi::BlockExportOptions options) {
  return context.daemon.add_export(context.loop, std::move(options));
}

Task<void> block_export_del(CommandContext& context, cmd::BlockExportDel::Arguments arguments) {
  return context.daemon.exports().remove(
      context.loop, std::move(arguments.id),
      arguments.mode.value_or(qapi::BlockExportRemoveMode::safe));
}

std::vector<qapi::BlockExportInfo> query_block_exports(CommandContext& context, qapi::NoArguments) {
  return context.daemon.exports().query();
}

Task<void> nbd_server_start(CommandContext& context, qapi::NbdServerOptionsLegacy options) {
  return context.daemon.start_nbd_server(context.loop, to_socket_address(options.addr), options);
}

// The older way to make an export: its id is its name.
Task<void> nbd_server_add(CommandContext& context, qapi::NbdServerAddOptions options) {
  NodePtr node = context.daemon.layer().find_node(options.device);
  if (node == nullptr) throw Error("Cannot find device='{0}' nor node-name='{0}'", options.device);
  qapi::BlockExportOptions form;
  form.select(qapi::BlockExportType::nbd);
  form.id = options.name.value_or(options.device);
  form.node_name = node->name();
  // A writable export of a node that cannot be written is not refused but read-only.
  form.writable = options.writable.value_or(false) && !node->is_read_only();
  auto& nbd = *form.get_if<qapi::BlockExportOptionsNbd>();
  nbd.name = options.name.value_or(options.device);
  nbd.description = options.description;
  if (options.bitmap) nbd.bitmaps.emplace().emplace_back(*options.bitmap);
  return context.daemon.add_export(context.loop, std::move(form));
}

Task<void> nbd_server_remove(CommandContext& context, cmd::NbdServerRemove::Arguments arguments) {
  ExportRegistry& exports = context.daemon.exports();
  std::shared_ptr<Export> found = exports.find(arguments.name);
  if (found != nullptr && found->type() != qapi::BlockExportType::nbd)
    throw Error("Block export '{}' is not an NBD export", arguments.name);
  found.reset();
  return exports.remove(context.loop, std::move(arguments.name),
                        arguments.mode.value_or(qapi::BlockExportRemoveMode::safe));
}

Task<void> nbd_server_stop(CommandContext& context, cmd::NbdServerStop::Arguments arguments) {
  return context.daemon.nbd().stop(context.loop, arguments.id.value_or(""));
}

}  // namespace

void serve_export_commands(CommandTable& table) {
  table.serve<cmd::BlockExportAdd>(&block_export_add);
  table.serve<cmd::BlockExportDel>(&block_export_del);
  table.serve<cmd::QueryBlockExports>(&query_block_exports);
  table.serve<cmd::NbdServerStart>(&nbd_server_start);
  table.serve<cmd::NbdServerAdd>(&nbd_server_add);
  table.serve<cmd::NbdServerRemove>(&nbd_server_remove);
  table.serve<cmd::NbdServerStop>(&nbd_server_stop);
}

}  // namespace strata
