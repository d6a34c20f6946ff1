// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/aio/socket_connect.h"
#include "block/coro/scope.h"
#include "qapi/types_char.h"
#include "storage-daemon/chardev/chardev.h"

namespace strata {

// A socket that listens and serves one client after the other, or one that connects, and connects
// again if told to.
class SocketChardev final : public Chardev {
 public:
  // Listens or connects before it returns. Throws Error.
  static Task<std::unique_ptr<Chardev>> open(MainLoop& loop, PassedFds& passed, std::string id,
                                             qapi::ChardevSocket options);
  ~SocketChardev() override;

  std::string filename() const override;
  std::string_view qom_type() const noexcept override { return "chardev-socket"; }
  bool is_server() const noexcept { return server_; }

 private:
  SocketChardev(MainLoop& loop, PassedFds& passed, std::string id,
                const qapi::ChardevSocket& options);
  Task<void> listen();
  Task<void> accept_from(size_t index);
  Task<void> stay_connected();
  void connected(UniqueFd fd);
  void on_stream_ended() override;
  Task<void> on_close() override;

  AioContext& context_;
  PassedFds& passed_;
  SocketAddress address_;
  bool server_;
  bool nodelay_;
  Duration reconnect_{0};
  std::vector<ListeningSocket> listeners_;
  std::string where_;  // of the socket itself
  std::string peer_;   // what follows it while connected over TCP
  Event free_;         // nobody is connected
  TaskScope scope_;
};

}  // namespace strata
