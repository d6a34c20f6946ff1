// SPDX-License-Identifier: GPL-2.0-or-later
//
// An NBD server: listening sockets, the exports they lead to, and the clients.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string_view>
#include <vector>

#include "block/aio/listener.h"
#include "block/aio/socket_connect.h"
#include "block/aio/socket_stream.h"
#include "block/aio/tls/tls_stream.h"
#include "block/coro/cancel.h"
#include "block/coro/scope.h"
#include "block/coro/semaphore.h"
#include "block/export/nbd/connection.h"
#include "block/export/nbd/export_table.h"
#include "block/export/nbd/handshake.h"

namespace strata {
class MainLoop;
}

namespace strata::nbd_export {

struct ServerLimits {
  uint32_t max_connections = 100;   // at the same time; 0: no limit
  uint32_t handshake_seconds = 10;  // for the whole handshake; 0: no limit
};

// Lives in the main loop. Accepting and the handshake happen there; the transmission phase runs in
// the context that the export chooses.
class NbdServer {
 public:
  // Told why a handshake failed, in one line.
  using Report = std::function<void(std::string_view)>;
  // Told that a client has gone; `served` if it had got past the handshake.
  using ClientGone = std::function<void(bool served)>;

  // `sockets` listen already; nobody is accepted before begin().
  NbdServer(MainLoop& loop, ServerLimits limits, TlsPolicy tls,
            std::vector<ListeningSocket> sockets, Report report);
  // Stopped before.
  ~NbdServer();
  NbdServer(const NbdServer&) = delete;
  NbdServer& operator=(const NbdServer&) = delete;

  void begin();
  void on_client_gone(ClientGone callback) { client_gone_ = std::move(callback); }
  const ServerLimits& limits() const noexcept { return limits_; }
  const ExportTable& exports() const noexcept { return exports_; }
  // How many clients there are, those in the handshake included.
  size_t clients() const noexcept { return clients_.size(); }

  // More exports will come: until exports_complete() a client that asks for one that is not there
  // waits, and its handshake has all the time it needs.
  void expect_exports() noexcept { exports_.complete().reset(); }
  void exports_complete() noexcept { exports_.complete().set(); }

  // As if it had come to a listening socket.
  void accept(UniqueFd client) { scope_.spawn(take_in(std::move(client))); }

  // Throws Error where the name is taken.
  void add_export(std::shared_ptr<NbdExport> added);
  // Takes the export out, disconnects its clients, and waits until they are gone; its Backend is
  // then free to be detached.
  Task<void> remove_export(std::shared_ptr<NbdExport> removed);
  // No more clients: closes the listening sockets, disconnects everyone and waits until they are
  // gone. The exports have been removed before.
  Task<void> stop();

 private:
  struct Client;

  Task<void> accept_loop(Listener& listener);
  Task<void> take_in(UniqueFd fd);
  Task<void> serve(UniqueFd fd, Semaphore::Units units);
  Task<std::optional<Agreement>> shake_hands(Client& client);
  Task<void> limit_handshake(Client& client, CancelToken done);

  MainLoop& loop_;
  ServerLimits limits_;
  TlsPolicy tls_;
  Report report_;
  ClientGone client_gone_;
  ExportTable exports_;
  Semaphore connections_;
  std::vector<SocketFile> files_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::list<Client*> clients_;
  CancelSource stopping_;
  TaskScope scope_;
};

}  // namespace strata::nbd_export
