// SPDX-License-Identifier: GPL-2.0-or-later
//
// The client of one export: its connections, and what happens when one is lost.
//
// The first connection lives in the client's home, the main loop. Where the server says that
// several see one cache, a context that makes requests gets a connection of its own; where it does
// not, or that connection cannot be had, requests travel to the home.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "block/aio/clock.h"
#include "block/aio/socket_connect.h"
#include "block/coro/event.h"
#include "block/coro/scope.h"
#include "block/drivers/nbd/connection.h"

namespace strata::nbd_client {

class OwnConnections;

struct ClientSettings {
  SocketAddress address;
  HandshakeOptions handshake;
  Duration reconnect_delay{0};  // for so long requests wait for a lost connection to come back
  Duration open_timeout{0};     // for so long the first one is tried; 0: once
};

class Client {
 public:
  // Both outlive the client. `passed` may be null: descriptors by number are then refused.
  Client(AioContext& home, PassedFds* passed, ClientSettings settings);
  // Closed before, or never opened.
  ~Client();

  // In the home: connects. Throws Error.
  Task<void> open();
  // In the home, with nothing under way: says goodbye to all connections.
  Task<void> close();

  // Of the first connection; what comes after it must be the same.
  const ExportInfo& info() const noexcept { return info_; }
  const ClientSettings& settings() const noexcept { return settings_; }

  // Any context. The answer's error, EIO where there is no connection.
  Task<Status> perform(Call& call);

 private:
  friend class OwnConnections;

  enum class State {
    connected,
    waiting,  // lost, and requests wait for it to come back
    failing,  // lost, and requests fail until it has come back
    closed,   // for good
  };

  Task<std::unique_ptr<Channel>> connect(AioContext& context, CancelToken cancel);
  Task<std::shared_ptr<Connection>> establish(AioContext& context, CancelToken cancel);
  Task<std::shared_ptr<Connection>> try_to_establish(AioContext& context, CancelToken cancel);
  Task<void> connect_here(OwnConnections& own);
  bool is_same_export(const ExportInfo& found) const noexcept;

  Task<Status> perform_at_home(Call& call);
  Task<bool> perform_here(Call& call);
  void lost(const Connection& connection);
  Task<void> reconnect();
  Task<void> stop_waiting();
  void set_state(State state);

  void remember(AioContext& context);
  void forget(AioContext& context) noexcept;

  AioContext& home_;
  PassedFds* passed_;
  ClientSettings settings_;
  ExportInfo info_;

  // The home's.
  std::shared_ptr<Connection> connection_;
  State state_ = State::closed;
  Event settled_;  // not waiting
  TaskScope scope_;
  CancelSource closing_;

  // Shared: contexts that have a connection of their own.
  std::mutex mutex_;
  std::vector<AioContext*> others_;
  // Goes up with each connection of the home's.
  std::atomic<uint64_t> generation_{0};
};

}  // namespace strata::nbd_client
