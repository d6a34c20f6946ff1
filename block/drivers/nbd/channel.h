// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "block/aio/socket_stream.h"
#include "block/aio/tls/tls_stream.h"

namespace strata::nbd_client {

// A connection's socket, and what lies over it. Belongs to the context it was made in.
class Channel {
 public:
  Channel(AioContext& context, UniqueFd fd) : socket_(context, std::move(fd)) {}

  Stream& stream() noexcept {
    if (tls_) return *tls_;
    return socket_;
  }
  bool is_secure() const noexcept { return tls_.has_value(); }
  // From here on everything is encrypted. Throws Error, and the channel is of no more use.
  Task<void> start_tls(std::shared_ptr<const TlsCredentials> credentials, std::string hostname) {
    tls_.emplace(socket_, std::move(credentials));
    return tls_->handshake(std::move(hostname));
  }
  // The last word of the client, where there is something to say.
  Task<void> close() {
    if (tls_) std::ignore = co_await tls_->bye();
    socket_.shutdown();
  }
  // Any thread.
  void shutdown() noexcept { socket_.shutdown(); }

 private:
  SocketStream socket_;
  std::optional<TlsStream> tls_;
};

}  // namespace strata::nbd_client
