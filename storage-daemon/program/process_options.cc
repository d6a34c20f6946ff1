// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/program/process_options.h"

#include <cstdio>

#include "block/base/error.h"
#include "block/base/log.h"
#include "block/base/trace.h"
#include "block/base/trace_option.h"
#include "block/graph/socket_options.h"
#include "qapi/runtime/keyval.h"
#include "qapi/visit_block_core.h"
#include "qapi/visit_block_export.h"
#include "qapi/visit_control.h"
#include "qapi/visit_qom.h"
#include "storage-daemon/chardev/options.h"
#include "storage-daemon/chardev/pty.h"
#include "storage-daemon/daemon.h"

namespace strata {
namespace {

using Help = std::optional<std::string>;

template <class T>
T convert(const qapi::OptionValue& option) {
  return option.is_json ? qapi::from_json<T>(option.value) : qapi::from_keyval<T>(option.value);
}

template <class T>
T parse(const std::string& argument, std::string_view implied_key) {
  qapi::OptionValue option = qapi::parse_option(argument, implied_key);
  if (option.help) throw Error("Help is not available for this option");
  return convert<T>(option);
}

// What is typed already is carried out alike, whether it comes from an argument or a file.

Task<void> add_chardev(MainLoop& loop, Daemon& daemon, std::string id,
                       qapi::ChardevBackend backend) {
  Chardev* device = co_await daemon.chardevs().add(loop, std::move(id), std::move(backend));
  if (const auto* pty = dynamic_cast<const PtyChardev*>(device)) {
    std::fputs(
        fmt::format("char device redirected to {} (label {})\n", pty->device(), pty->id()).c_str(),
        stdout);
    std::fflush(stdout);
  }
}

Task<void> start_nbd_server(MainLoop& loop, Daemon& daemon, qapi::NbdServerOptions options) {
  return daemon.start_nbd_server(loop, to_socket_address(options.addr), options);
}

Task<Help> process_chardev(MainLoop& loop, Daemon& daemon, const std::string& argument) {
  if (chardev_help(argument) == ChardevHelp::backends) {
    std::string text = "Available chardev backend types:\n";
    for (qapi::ChardevBackendKind kind : ChardevRegistry::backends())
      text += fmt::format("  {}\n", to_string(kind));
    co_return text;
  }
  if (chardev_help(argument) == ChardevHelp::options) co_return chardev_options_help();
  ChardevOption option = parse_chardev_option(argument);
  for (const std::string& warning : option.warnings)
    log_error("--chardev {}: warning: {}", argument, warning);
  co_await add_chardev(loop, daemon, std::move(option.id), std::move(option.backend));
  co_return std::nullopt;
}

Help process_object(MainLoop& loop, Daemon& daemon, const std::string& argument) {
  qapi::OptionValue option = qapi::parse_option(argument, "qom-type");
  if (option.help) {
    const boost::json::value* type = option.value.as_object().if_contains("qom-type");
    for (const CreatableType& creatable : creatable_types()) {
      if (type != nullptr && type->is_string() && type->as_string() == to_string(creatable.type))
        return properties_help(creatable);
    }
    return creatable_types_help();
  }
  daemon.objects().add(loop, convert<qapi::ObjectOptions>(option));
  return std::nullopt;
}

Help process_trace(const CommandLineOption& option) {
  TraceOption trace = parse_trace_option(option.argument);
  if (trace.help) {
    std::string text;
    for (const std::string& name : trace_point_names()) text += name + "\n";
    return text;
  }
  for (const TracePattern& unknown : apply_trace_option(trace))
    warn_of_unknown(unknown, option.where);
  return std::nullopt;
}

// The lists of a configuration, each as the option of its name.
Task<void> process_config(MainLoop& loop, Daemon& daemon, const qapi::StrataConfig& config) {
  if (config.object)
    for (const auto& object : *config.object) daemon.objects().add(loop, object);
  if (config.chardev)
    for (const auto& device : *config.chardev)
      co_await add_chardev(loop, daemon, device.id, device.backend);
  if (config.blockdev)
    for (const auto& node : *config.blockdev) co_await daemon.add_node(loop, node);
  if (config.nbd_server)
    for (const auto& server : *config.nbd_server) co_await start_nbd_server(loop, daemon, server);
  if (config.export_)
    for (const auto& entry : *config.export_) co_await daemon.add_export(loop, entry);
  if (config.metrics) co_await daemon.start_metrics(loop, *config.metrics);
  if (config.monitor)
    for (const auto& monitor : *config.monitor) daemon.add_monitor(loop, monitor);
}

Task<Help> process(MainLoop& loop, Daemon& daemon, const CommandLineOption& option) {
  const std::string& argument = option.argument;
  switch (option.kind) {
    case OptionKind::blockdev:
      co_await daemon.add_node(loop, parse<qapi::BlockdevOptions>(argument, "driver"));
      break;
    case OptionKind::chardev:
      co_return co_await process_chardev(loop, daemon, argument);
    case OptionKind::config:
      co_await process_config(loop, daemon, *option.config);
      break;
    case OptionKind::export_:
      co_await daemon.add_export(loop, parse<qapi::BlockExportOptions>(argument, "type"));
      break;
    case OptionKind::metrics:
      co_await daemon.start_metrics(loop, argument);
      break;
    case OptionKind::monitor:
      daemon.add_monitor(loop, parse<qapi::MonitorOptions>(argument, "chardev"));
      break;
    case OptionKind::nbd_server:
      co_await start_nbd_server(loop, daemon, parse<qapi::NbdServerOptions>(argument, ""));
      break;
    case OptionKind::object:
      co_return process_object(loop, daemon, argument);
    case OptionKind::trace:
      co_return process_trace(option);
    default:
      break;
  }
  co_return std::nullopt;
}

}  // namespace

Task<Help> process_options(MainLoop& loop, Daemon& daemon, const CommandLine& line) {
  if (line.daemonize) daemon.chardevs().forbid_stdio();
  // Clients may be at the sockets before the exports are.
  struct Expecting {
    NbdService& nbd;
    explicit Expecting(NbdService& service) : nbd(service) { nbd.expect_exports(); }
    ~Expecting() { nbd.exports_complete(); }
  } expecting(daemon.nbd());
  for (const CommandLineOption& option : line.options) {
    if (daemon.is_shutting_down()) break;
    try {
      if (Help help = co_await process(loop, daemon, option)) co_return help;
    } catch (Error& error) {
      throw std::move(error).prepend(option.where + ": ");
    }
  }
  co_return std::nullopt;
}

}  // namespace strata
