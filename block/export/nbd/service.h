// SPDX-License-Identifier: GPL-2.0-or-later
//
// The NBD servers of a daemon and the exports that hang on them, as nbd-server-* and
// block-export-add know them. QEMU has one, which is here the one whose id is empty.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>

#include "block/aio/passed_fds.h"
#include "block/export/nbd/server.h"
#include "block/export/registry.h"

namespace strata {

// Main loop only.
class NbdService {
 public:
  // Makes itself known to `exports` as the maker of the kind `nbd`.
  NbdService(ExportRegistry& exports, PassedFds& passed);
  // Stopped before.
  ~NbdService();

  // Throws Error where start() would: the id is not one, or a server of that id runs already.
  // `is_named`: somebody chose the id.
  void check_startable(const std::string& id, bool is_named) const;
  // Throws Error: it runs already, or the address cannot be listened to.
  Task<void> start(MainLoop& loop, std::string id, SocketAddress address,
                   nbd_export::ServerLimits limits, nbd_export::TlsPolicy tls = {});
  // Between these two, clients wait for exports that are not there yet: in all servers.
  void expect_exports() noexcept;
  void exports_complete() noexcept;
  // Closes its exports, then the server. Throws Error if it does not run.
  Task<void> stop(MainLoop& loop, std::string id);
  Task<void> stop_all(MainLoop& loop);
  // Null where there is none of that id.
  nbd_export::NbdServer* find(const std::string& id) const noexcept;

 private:
  class ServedExport;
  nbd_export::NbdServer& server_of(const qapi::BlockExportOptions& options) const;
  Task<std::unique_ptr<Export>> make_export(ExportParts parts);

  ExportRegistry& exports_;
  PassedFds& passed_;
  bool more_exports_ = false;
  std::set<std::string> starting_;
  std::map<std::string, std::unique_ptr<nbd_export::NbdServer>> servers_;
};

}  // namespace strata
