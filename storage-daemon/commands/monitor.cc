// SPDX-License-Identifier: GPL-2.0-or-later
//
// The monitor's own commands: negotiation, version, what there is, the end.
#include <algorithm>

#include "qapi/commands_control.h"
#include "storage-daemon/commands/families.h"
#include "storage-daemon/daemon.h"
#include "storage-daemon/monitor/session.h"

namespace strata {
namespace {

namespace cmd = qapi::cmd;

void qmp_capabilities(CommandContext& context, cmd::QmpCapabilities::Arguments arguments) {
  bool oob = arguments.enable && std::ranges::count(*arguments.enable, qapi::QMPCapability::oob);
  context.session.negotiate(oob);
}

qapi::VersionInfo query_version(CommandContext&, qapi::NoArguments) {
  return Daemon::version();
}

// QEMU lists its commands backwards.
std::vector<qapi::CommandInfo> query_commands(CommandContext& context, qapi::NoArguments) {
  std::vector<qapi::CommandInfo> infos;
  for (const auto& entry : context.daemon.commands().entries())
    infos.push_back({std::string(entry.info->name)});
  std::ranges::reverse(infos);
  return infos;
}

void quit(CommandContext& context, qapi::NoArguments) {
  context.daemon.request_shutdown();
}

}  // namespace

void serve_monitor_commands(CommandTable& table) {
  table.serve<cmd::QmpCapabilities>(&qmp_capabilities);
  table.serve<cmd::QueryVersion>(&query_version);
  table.serve<cmd::QueryCommands>(&query_commands);
  table.serve<cmd::Quit>(&quit);
}

}  // namespace strata
