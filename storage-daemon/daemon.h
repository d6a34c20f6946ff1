// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "block/aio/main_loop.h"
#include "block/aio/passed_fds.h"
#include "block/base/error.h"
#include "block/coro/event.h"
#include "block/coro/mutex.h"
#include "block/export/fuse/mount.h"
#include "block/export/nbd/service.h"
#include "block/export/registry.h"
#include "block/graph/layer.h"
#include "block/jobs/jobs.h"
#include "qapi/types_control.h"
#include "storage-daemon/chardev/registry.h"
#include "storage-daemon/commands/context.h"
#include "storage-daemon/metrics/server.h"
#include "storage-daemon/monitor/command_trace.h"
#include "storage-daemon/monitor/events.h"
#include "storage-daemon/objects/registry.h"
#include "storage-daemon/program/service_store.h"

namespace strata {

class Monitor;

// Everything a storage daemon has. Nothing of it is global: a process may hold two.
//
//   Daemon daemon(loop, PassedFds::inherited(), fuse_export::make_mounter());
//   ... options ...
//   co_await daemon.wait_for_shutdown();
//   co_await daemon.shut_down(loop);
class Daemon {
 public:
  // `mounter` is null where FUSE exports cannot be had.
  Daemon(MainLoop& loop, PassedFds passed, std::shared_ptr<fuse_export::Mounter> mounter);
  // Shut down before.
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  // The version of the interface, with ours as the package.
  static qapi::VersionInfo version();

  BlockLayer& layer() noexcept { return layer_; }
  Jobs& jobs() noexcept { return jobs_; }
  ExportRegistry& exports() noexcept { return exports_; }
  NbdService& nbd() noexcept { return nbd_; }
  ObjectRegistry& objects() noexcept { return objects_; }
  ChardevRegistry& chardevs() noexcept { return chardevs_; }
  EventHub& events() noexcept { return events_; }
  PassedFds& passed_fds() noexcept { return passed_; }
  ServiceStore& service_store() noexcept { return service_store_; }
  const CommandTable& commands() const noexcept { return commands_; }
  const CommandTrace& command_trace() const noexcept { return command_trace_; }
  // Held while a command is executed: they come one after the other, from whichever monitor.
  Mutex& command_lock() noexcept { return command_lock_; }

  // The context of an iothread object; null if there is none of that name.
  AioContext* find_iothread(std::string_view id) const noexcept;

  // Errors say then that the sandbox may be what refused something.
  void set_sandboxed() noexcept { sandboxed_ = true; }
  // The error as it is to be reported.
  Error explain(Error error) const;

  // What options and commands have in common. All throw Error.
  Task<void> add_node(MainLoop& loop, qapi::BlockdevOptions options);
  Task<void> add_export(MainLoop& loop, qapi::BlockExportOptions options);
  Task<void> start_nbd_server(MainLoop& loop, SocketAddress address,
                              qapi::NbdServerOptionsBase options);
  // `address` as --metrics takes it: "unix:PATH" or "HOST:PORT".
  Task<void> start_metrics(MainLoop& loop, const std::string& address);
  void add_monitor(MainLoop& loop, const qapi::MonitorOptions& options);

  // Any part of the control plane; the caller goes on first.
  void request_shutdown() noexcept;
  bool is_shutting_down() const noexcept { return shutdown_.is_set(); }
  // For after the options.
  Task<void> wait_for_shutdown();
  // Whoever waits for a character device's client waits no longer.
  void interrupt_options(MainLoop& loop);
  // Ends exports, nodes, monitors and devices, in this order, so that clients hear all about it.
  // Errors of the last flushes are logged.
  Task<void> shut_down(MainLoop& loop);

 private:
  std::vector<const AioContext*> contexts() const;
  bool is_in_use(const UserObject& object) const;

  PassedFds passed_;
  ServiceStore service_store_{passed_};
  EventHub events_;
  ChardevRegistry chardevs_;
  ObjectRegistry objects_;
  BlockLayer layer_;
  Jobs jobs_{layer_};
  ExportRegistry exports_;
  NbdService nbd_;
  std::multimap<std::string, std::string> export_threads_;  // iothreads' ids, by the export's
  CommandTable commands_;
  CommandTrace command_trace_;
  Mutex command_lock_;
  std::vector<std::unique_ptr<Monitor>> monitors_;
  Event shutdown_;
  std::vector<std::unique_ptr<MetricsServer>> metrics_;
  bool sandboxed_ = false;
  bool started_ = false;  // all options have been processed
};

}  // namespace strata
