// SPDX-License-Identifier: GPL-2.0-or-later
//
// The NBD server of a daemon and the exports that hang on it, as nbd-server-* and block-export-add
// know them.
#pragma once

#include <memory>

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

  // Throws Error: it runs already, or the address cannot be listened to.
  Task<void> start(MainLoop& loop, SocketAddress address, nbd_export::ServerLimits limits,
                   nbd_export::TlsPolicy tls = {});
  // Closes the exports, then the server. Throws Error if none runs.
  Task<void> stop(MainLoop& loop);
  bool is_running() const noexcept { return server_ != nullptr; }
  nbd_export::NbdServer* server() const noexcept { return server_.get(); }

 private:
  class ServedExport;
  Task<std::unique_ptr<Export>> make_export(ExportParts parts);

  ExportRegistry& exports_;
  PassedFds& passed_;
  bool starting_ = false;
  std::unique_ptr<nbd_export::NbdServer> server_;
};

}  // namespace strata
