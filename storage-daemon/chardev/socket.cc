// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/chardev/socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "block/aio/listener.h"
#include "block/aio/socket_stream.h"
#include "block/base/error.h"
#include "block/base/log.h"
#include "block/graph/socket_options.h"

namespace strata {
namespace {

std::string bracketed(const InetAddress& address) {
  bool is_v6 = address.host.find(':') != std::string::npos;
  return is_v6 ? "[" + address.host + "]:" + address.port : address.host + ":" + address.port;
}

// As query-chardev shows it.
struct Show {
  std::string operator()(const InetAddress& a) const { return "tcp:" + bracketed(a); }
  std::string operator()(const UnixAddress& a) const {
    std::string text = "unix:" + a.path;
    if (a.abstract) text += std::string(",abstract=on,tight=") + (a.tight ? "on" : "off");
    return text;
  }
  std::string operator()(const VsockAddress& a) const { return "vsock:" + a.cid + ":" + a.port; }
  std::string operator()(const FdAddress& a) const { return "fd:" + a.str; }
};

void check(const qapi::ChardevSocket& options) {
  bool server = options.server.value_or(true);
  if (server && options.reconnect_ms.value_or(0) != 0)
    throw Error("'reconnect' option is incompatible with socket in server listen mode");
  if (!server && options.wait)
    throw Error("'wait' option is incompatible with socket in client connect mode");
  if (options.reconnect_ms.value_or(0) < 0)
    throw Error("Parameter 'reconnect-ms' expects a non-negative number");
  auto refuse = [](bool wanted, std::string_view what) {
    if (wanted) throw Error("'{}' is not supported by socket character devices", what);
  };
  refuse(options.tls_creds.has_value(), "tls-creds");
  refuse(options.tls_authz.has_value(), "tls-authz");
  refuse(options.telnet.value_or(false), "telnet");
  refuse(options.tn3270.value_or(false), "tn3270");
  refuse(options.websocket.value_or(false), "websocket");
}

}  // namespace

SocketChardev::SocketChardev(MainLoop& loop, PassedFds& passed, std::string id,
                             const qapi::ChardevSocket& options)
    : Chardev(std::move(id)),
      context_(loop.context()),
      passed_(passed),
      address_(to_socket_address(options.addr)),
      server_(options.server.value_or(true)),
      nodelay_(options.nodelay.value_or(false)),
      reconnect_(std::chrono::milliseconds(options.reconnect_ms.value_or(0))),
      where_(std::visit(Show(), address_)) {}

SocketChardev::~SocketChardev() = default;

Task<std::unique_ptr<Chardev>> SocketChardev::open(MainLoop& loop, PassedFds& passed,
                                                   std::string id, qapi::ChardevSocket options) {
  check(options);
  std::unique_ptr<SocketChardev> socket(new SocketChardev(loop, passed, std::move(id), options));
  if (socket->server_)
    co_await socket->listen();
  else if (socket->reconnect_ == Duration::zero())
    socket->connected(co_await connect_to(socket->context_, socket->address_, passed));
  else
    socket->scope_.spawn(socket->stay_connected());
  co_return socket;
}

Task<void> SocketChardev::listen() {
  listeners_ = co_await listen_on(context_, address_, 1, passed_);
  auto bound = local_address(listeners_.front().fd.get());
  if (bound && !std::holds_alternative<UnixAddress>(address_)) where_ = std::visit(Show(), *bound);
  free_.set();
  for (size_t i = 0; i < listeners_.size(); ++i) scope_.spawn(accept_from(i));
}

// While one client is served others wait in the kernel's queue.
Task<void> SocketChardev::accept_from(size_t index) {
  Listener listener(context_, std::move(listeners_[index].fd));
  while (!closing().is_cancelled()) {
    co_await free_.wait();
    if (closing().is_cancelled()) break;
    Result<UniqueFd> client = co_await listener.accept(closing());
    if (!client) {
      if (client.error_number() != ECANCELED)
        log_error("Character device {} no longer listens: {}", id(),
                  Error::describe_errno(client.error_number()));
      break;
    }
    // Two sockets of one device may get a client at the same time.
    while (!free_.is_set()) co_await free_.wait();
    if (closing().is_cancelled()) break;
    free_.reset();
    connected(std::move(*client));
  }
}

Task<void> SocketChardev::stay_connected() {
  bool reported = false;
  while (!closing().is_cancelled()) {
    std::optional<Error> error;
    try {
      connected(co_await connect_to(context_, address_, passed_, closing()));
      reported = false;
    } catch (Error& failure) {
      error = std::move(failure);
    }
    if (error && error->error_number() == ECANCELED) break;
    // Once is enough for a peer that stays away.
    if (error && !std::exchange(reported, true))
      log_error("Unable to connect character device {}: {}", id(), error->text());
    while (is_connected() && !closing().is_cancelled()) {
      free_.reset();
      co_await free_.wait();
    }
    if (!co_await context_.sleep_for(reconnect_, closing())) break;
  }
}

void SocketChardev::connected(UniqueFd fd) {
  if (auto peer = peer_address(fd.get()); peer && std::holds_alternative<InetAddress>(*peer)) {
    if (!server_)
      if (auto local = local_address(fd.get())) where_ = std::visit(Show(), *local);
    peer_ = " <-> " + bracketed(std::get<InetAddress>(*peer));
    int on = nodelay_ ? 1 : 0;
    ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  set_stream(std::make_shared<SocketStream>(context_, std::move(fd)));
}

void SocketChardev::on_stream_ended() {
  peer_.clear();
  if (!server_) where_ = std::visit(Show(), address_);
  free_.set();
}

std::string SocketChardev::filename() const {
  std::string text = (is_connected() ? "" : "disconnected:") + where_;
  if (server_) text += ",server=on";
  return text + peer_;
}

Task<void> SocketChardev::on_close() {
  free_.set();
  co_await scope_.join();
  listeners_.clear();
}

}  // namespace strata
