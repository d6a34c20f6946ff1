// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/nbd/server.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "block/aio/main_loop.h"
#include "block/aio/run_in.h"
#include "block/base/error.h"
#include "block/export/nbd/export.h"
#include "block/export/nbd/handshake.h"

namespace strata::nbd_export {
namespace {

// No limit on connections: more than there can be descriptors.
constexpr size_t kUnlimited = size_t{1} << 30;
// Large replies should not wait for the client after every 200 KiB.
constexpr int kSendBuffer = 2 << 20;

void tune(int fd) noexcept {
  int one = 1;
  // Fails where it is not TCP.
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  bool local = ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0 &&
               address.ss_family == AF_UNIX;
  // TCP sizes its buffers itself, and better.
  if (!local) return;
  if (::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &kSendBuffer, sizeof kSendBuffer) != 0) {
    ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kSendBuffer, sizeof kSendBuffer);
  }
}

// How long a client may take to hear our goodbye.
constexpr auto kFarewell = std::chrono::seconds(2);

Task<void> limit_farewell(AioContext& context, SocketStream& socket, CancelToken done) {
  if (co_await context.sleep_for(kFarewell, done)) socket.shutdown();
}

Task<void> say_goodbye(AioContext& context, SocketStream& socket, TlsStream& secured) {
  TaskScope timer;
  CancelSource done;
  timer.spawn(limit_farewell(context, socket, done.token()));
  std::ignore = co_await secured.bye();
  done.cancel();
  co_await timer.join();
}

Task<void> transmit(AioContext& context, SocketStream& socket, TlsStream* secured,
                    const Agreement& agreement) {
  socket.bind(context);
  {
    Stream& stream = secured != nullptr ? static_cast<Stream&>(*secured) : socket;
    Connection connection(context, stream, agreement);
    co_await connection.run();
  }
  if (secured != nullptr) co_await say_goodbye(context, socket, *secured);
  socket.unbind();
}

// Authorization goes by the name in a certificate: who shows none could not be judged.
void check_identifies_peer(const TlsPolicy& tls) {
  if (!tls.authorization) return;
  if (!tls.credentials) throw Error("--tls-authz is not permitted without --tls-creds");
  if (tls.credentials->kind() != TlsCredentials::Kind::x509 || !tls.credentials->verifies_peer())
    throw Error("TLS authorization needs x509 credentials that verify the peer");
  if (!tls.required) throw Error("TLS authorization is of no use where TLS is not required");
}

}  // namespace

struct NbdServer::Client {
  Client(AioContext& context, UniqueFd fd) : stream(context, std::move(fd)) {}
  // The export it uses, or has just been promised.
  const NbdExport* target() const noexcept {
    return handshake != nullptr ? handshake->target() : in_use;
  }

  SocketStream stream;
  std::optional<TlsStream> secured;
  const Handshake* handshake = nullptr;
  const NbdExport* in_use = nullptr;
};

NbdServer::NbdServer(MainLoop& loop, ServerLimits limits, TlsPolicy tls,
                     std::vector<ListeningSocket> sockets, Report report)
    : loop_(loop),
      limits_(limits),
      tls_(std::move(tls)),
      report_(std::move(report)),
      connections_(limits.max_connections != 0 ? limits.max_connections : kUnlimited) {
  check_identifies_peer(tls_);
  for (ListeningSocket& socket : sockets) {
    files_.push_back(std::move(socket.file));
    listeners_.push_back(std::make_unique<Listener>(loop.context(), std::move(socket.fd)));
  }
}

void NbdServer::begin() {
  for (auto& listener : listeners_) scope_.spawn(accept_loop(*listener));
}

NbdServer::~NbdServer() = default;

void NbdServer::add_export(std::shared_ptr<NbdExport> added) {
  if (exports_.find(added->name())) {
    throw Error("NBD server already has export named '{}'", added->name());
  }
  exports_.add(std::move(added));
}

Task<void> NbdServer::remove_export(std::shared_ptr<NbdExport> removed) {
  removed->begin_closing();
  exports_.remove(*removed);
  for (Client* client : clients_) {
    if (client->target() == removed.get()) client->stream.shutdown();
  }
  co_await removed->unused();
}

Task<void> NbdServer::stop() {
  stopping_.cancel();
  exports_complete();
  for (Client* client : clients_) client->stream.shutdown();
  co_await scope_.join();
  listeners_.clear();
  files_.clear();
}

Task<void> NbdServer::accept_loop(Listener& listener) {
  for (;;) {
    Result<UniqueFd> accepted = co_await listener.accept(stopping_.token());
    if (!accepted) co_return;
    // One client too many is left waiting here, and the next ones in the socket's backlog.
    co_await take_in(std::move(accepted).value());
    if (stopping_.is_cancelled()) co_return;
  }
}

Task<void> NbdServer::take_in(UniqueFd fd) {
  Semaphore::Units units = co_await connections_.acquire();
  if (!stopping_.is_cancelled()) scope_.spawn(serve(std::move(fd), std::move(units)));
}

Task<void> NbdServer::serve(UniqueFd fd, Semaphore::Units units) {
  tune(fd.get());
  Client client(loop_.context(), std::move(fd));
  auto entry = clients_.insert(clients_.end(), &client);
  bool served = false;
  if (auto agreement = co_await shake_hands(client)) {
    client.stream.unbind();
    AioContext& context = agreement->target->next_context();
    TlsStream* secured = client.secured ? &*client.secured : nullptr;
    co_await run_in(context, transmit(context, client.stream, secured, *agreement));
    client.in_use = nullptr;
    served = true;
  }
  clients_.erase(entry);
  if (client_gone_) client_gone_(served);
}

Task<std::optional<Agreement>> NbdServer::shake_hands(Client& client) {
  TaskScope timer;
  CancelSource done;
  if (limits_.handshake_seconds != 0) timer.spawn(limit_handshake(client, done.token()));
  Handshake handshake(client.stream, exports_, tls_, client.secured);
  client.handshake = &handshake;
  std::optional<Agreement> agreement = co_await handshake.run();
  if (agreement) client.in_use = agreement->target.get();
  client.handshake = nullptr;
  done.cancel();
  co_await timer.join();
  if (!handshake.problem().empty() && report_) {
    report_(fmt::format("option negotiation failed: {}", handshake.problem()));
  }
  if (agreement && (agreement->target->is_closing() || stopping_.is_cancelled())) agreement.reset();
  co_return agreement;
}

Task<void> NbdServer::limit_handshake(Client& client, CancelToken done) {
  auto limit = std::chrono::seconds(limits_.handshake_seconds);
  bool over = true;
  do {
    over = exports_.complete().is_set();
    if (!co_await loop_.context().sleep_for(limit, done)) co_return;
  } while (!over);
  client.stream.shutdown();
}

}  // namespace strata::nbd_export
