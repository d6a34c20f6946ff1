// SPDX-License-Identifier: GPL-2.0-or-later
//
// The monitor's own commands: negotiation, version, what there is, the end.
#include <algorithm>

#include "qapi/commands_control.h"
#include "qapi/commands_introspect.h"
#include "qapi/events_block_core.h"
#include "qapi/events_block_export.h"
#include "qapi/runtime/introspect.h"
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

// What exists in the schema but not in this build: drivers, exports, devices, objects.
bool exists(Daemon& daemon, std::string_view enumeration, std::string_view name) {
  if (enumeration == "BlockdevDriver") {
    auto driver = qapi::from_string<qapi::BlockdevDriver>(name);
    return driver && daemon.layer().find_driver(*driver) != nullptr;
  }
  if (enumeration == "BlockExportType") {
    auto type = qapi::from_string<qapi::BlockExportType>(name);
    return type && daemon.exports().has_type(*type);
  }
  if (enumeration == "ChardevBackendKind") {
    auto kind = qapi::from_string<qapi::ChardevBackendKind>(name);
    return kind && std::ranges::count(ChardevRegistry::backends(), *kind) != 0;
  }
  if (enumeration == "ObjectType") {
    return std::ranges::any_of(creatable_types(), [name](const CreatableType& type) {
      return to_string(type.type) == name;
    });
  }
  return true;
}

std::vector<qapi::SchemaInfo> query_qmp_schema(CommandContext& context, qapi::NoArguments) {
  const qapi::EventDescription* const events[] = {
      &qapi::event::BlockWriteThreshold::info(),
      &qapi::event::BlockExportDeleted::info(),
  };
  Daemon& daemon = context.daemon;
  boost::json::array schema =
      qapi::introspect(daemon.commands().infos(), events,
                       [&daemon](std::string_view enumeration, std::string_view name) {
                         return exists(daemon, enumeration, name);
                       });
  return qapi::from_json<std::vector<qapi::SchemaInfo>>(schema);
}

void quit(CommandContext& context, qapi::NoArguments) {
  context.daemon.request_shutdown();
}

}  // namespace

void serve_monitor_commands(CommandTable& table) {
  table.serve<cmd::QmpCapabilities>(&qmp_capabilities);
  table.serve<cmd::QueryVersion>(&query_version);
  table.serve<cmd::QueryCommands>(&query_commands);
  table.serve<cmd::QueryQmpSchema>(&query_qmp_schema);
  table.serve<cmd::Quit>(&quit);
}

}  // namespace strata
