// SPDX-License-Identifier: GPL-2.0-or-later
//
// Commands that change nodes.
#include <algorithm>

#include "block/aio/aio_context.h"
#include "block/base/error.h"
#include "block/graph/activity.h"
#include "block/graph/home_context.h"
#include "block/graph/open.h"
#include "block/graph/reopen.h"
#include "block/io/backend.h"
#include "qapi/commands_block_core.h"
#include "qapi/commands_blockdev.h"
#include "storage-daemon/commands/families.h"
#include "storage-daemon/daemon.h"

namespace strata {
namespace {

namespace cmd = qapi::cmd;

Task<void> blockdev_add(CommandContext& context, qapi::BlockdevOptions options) {
  return context.daemon.add_node(context.loop, std::move(options));
}

NodePtr find_node(Daemon& daemon, const std::string& name) {
  NodePtr node = daemon.layer().find_node(name);
  if (node == nullptr || !node->is_open())
    throw Error("Failed to find node with node-name='{}'", name);
  return node;
}

Task<void> blockdev_del(CommandContext& context, cmd::BlockdevDel::Arguments arguments) {
  BlockLayer& layer = context.daemon.layer();
  NodePtr node = find_node(context.daemon, arguments.node_name);
  for (const Edge* edge : node->parents()) {
    if (edge->has_role(ChildRole::cow))
      throw Error("Node '{}' is busy: node is used as backing hd of '{}'", node->name(),
                  edge->parent().parent_node()->name());
  }
  bool has_parent_node = std::ranges::any_of(
      node->parents(), [](const Edge* edge) { return edge->parent().parent_node() != nullptr; });
  if (!layer.is_monitor_node(*node))
    throw Error("Node {} is not owned by the monitor", node->name());
  if (has_parent_node) throw Error("Block device {} is in use", node->name());
  if (!node->parents().empty()) throw Error("Node {} is in use", node->name());
  layer.forget_monitor_node(*node);
  return layer.release(context.loop, std::move(node));
}

Task<void> blockdev_reopen(CommandContext& context, cmd::BlockdevReopen::Arguments arguments) {
  std::vector<NewOptions> nodes;
  for (qapi::BlockdevOptions& options : arguments.options) {
    if (!options.node_name) throw Error("node-name not specified");
    NodePtr node = find_node(context.daemon, *options.node_name);
    nodes.push_back({std::move(node), std::move(options)});
  }
  return reopen_nodes(context.loop, context.daemon.layer(), std::move(nodes));
}

Task<void> block_resize(CommandContext& context, cmd::BlockResize::Arguments arguments) {
  BlockLayer& layer = context.daemon.layer();
  if (arguments.device && !arguments.device->empty())
    throw Error("Cannot find device='{}' nor node-name='{}'", *arguments.device,
                arguments.node_name.value_or(""));
  NodePtr node = layer.find_node(arguments.node_name.value_or(""));
  if (node == nullptr || !node->is_open())
    throw Error("Cannot find device='' nor node-name='{}'", arguments.node_name.value_or(""));
  if (arguments.size < 0) throw Error("Parameter 'size' expects a >0 size");

  Backend backend(layer);
  backend.attach(context.loop, std::move(node), {.needed = Permission::resize});
  std::exception_ptr error;
  try {
    co_await backend.truncate(static_cast<uint64_t>(arguments.size));
  } catch (...) {
    error = std::current_exception();
  }
  co_await backend.close(context.loop);
  if (error) std::rethrow_exception(error);
}

void block_set_write_threshold(CommandContext& context,
                               cmd::BlockSetWriteThreshold::Arguments arguments) {
  NodePtr node = context.daemon.layer().find_node(arguments.node_name);
  if (node == nullptr) throw Error("Device '{}' not found", arguments.node_name);
  node->io().write_threshold = arguments.write_threshold;
}

Task<void> blockdev_set_active(CommandContext& context,
                               cmd::BlockdevSetActive::Arguments arguments) {
  BlockLayer& layer = context.daemon.layer();
  if (!arguments.node_name)
    co_return co_await set_all_active(context.loop, layer, arguments.active);
  NodePtr node = find_node(context.daemon, *arguments.node_name);
  co_await set_active(context.loop, *node, arguments.active);
}

void x_blockdev_set_iothread(CommandContext& context,
                             cmd::XBlockdevSetIothread::Arguments arguments) {
  NodePtr node = find_node(context.daemon, arguments.node_name);
  bool has_backend = std::ranges::any_of(
      node->parents(), [](const Edge* edge) { return edge->parent().parent_node() == nullptr; });
  if (has_backend && !arguments.force.value_or(false))
    throw Error(
        "Node {} is associated with a BlockBackend and could be in use (use force=true to override "
        "this check)",
        arguments.node_name);
  AioContext* target = &context.loop.context();
  if (const auto* id = std::get_if<std::string>(&arguments.iothread)) {
    target = context.daemon.find_iothread(*id);
    if (target == nullptr) throw Error("Cannot find iothread {}", *id);
  }
  set_home_context(context.loop, *node, *target);
}

}  // namespace

void serve_block_commands(CommandTable& table) {
  table.serve<cmd::BlockdevAdd>(&blockdev_add);
  table.serve<cmd::BlockdevReopen>(&blockdev_reopen);
  table.serve<cmd::BlockdevDel>(&blockdev_del);
  table.serve<cmd::BlockResize>(&block_resize);
  table.serve<cmd::BlockSetWriteThreshold>(&block_set_write_threshold);
  table.serve<cmd::BlockdevSetActive>(&blockdev_set_active);
  table.serve<cmd::XBlockdevSetIothread>(&x_blockdev_set_iothread);
}

}  // namespace strata
