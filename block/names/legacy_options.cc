// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/names/legacy_options.h"

#include <string>

#include "block/base/error.h"
#include "block/base/log.h"

namespace strata {
namespace {

using boost::json::object;

constexpr const char* kDefaultNbdPort = "10809";

void give_server(object& nbd) {
  bool has_path = nbd.contains("path");
  bool has_host = nbd.contains("host");
  bool has_port = nbd.contains("port");
  if (nbd.contains("server")) {
    if (has_path || has_host || has_port)
      throw Error("Cannot use 'server' and path/host/port at the same time");
    return;
  }
  if (has_path && has_host) throw Error("path and host may not be used at the same time");
  if (!has_path && !has_host) {
    throw Error("NBD server address missing");
  }
  if (has_path && has_port) throw Error("port may not be used without host");
  object server;
  server["type"] = has_path ? "unix" : "inet";
  if (has_path) {
    server["path"] = nbd["path"];
  } else {
    server["host"] = nbd["host"];
    server["port"] = has_port ? nbd["port"] : boost::json::value(kDefaultNbdPort);
  }
  nbd.erase("path");
  nbd.erase("host");
  nbd.erase("port");
  nbd["server"] = std::move(server);
}

// "on" and "off" of "discard" mean what they say.
void rename_discard(object& options) {
  boost::json::value* discard = options.if_contains("discard");
  if (discard == nullptr || !discard->is_string()) return;
  std::string_view mode = discard->get_string();
  if (mode == "on")
    *discard = "unmap";
  else if (mode == "off")
    *discard = "ignore";
  else if (mode != "unmap" && mode != "ignore")
    throw Error("Invalid discard option");
}

void leave_out_empty_backing(object& options) {
  boost::json::value* backing = options.if_contains("backing");
  if (backing == nullptr || !backing->is_string() || !backing->get_string().empty()) return;
  log_warning("Use of \"backing\": \"\" is deprecated; use \"backing\": null instead");
  *backing = nullptr;
}

}  // namespace

void modernise_options(object& options) {
  for (auto& [key, value] : options)
    if (object* child = value.if_object()) modernise_options(*child);
  rename_discard(options);
  leave_out_empty_backing(options);
  const boost::json::value* driver = options.if_contains("driver");
  if (driver != nullptr && driver->is_string() && driver->get_string() == "nbd")
    give_server(options);
}

}  // namespace strata
