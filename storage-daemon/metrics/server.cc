// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/metrics/server.h"

#include "block/aio/aio_context.h"
#include "block/aio/socket_stream.h"
#include "block/base/error.h"

namespace strata {
namespace {

constexpr size_t kMostClients = 8;
constexpr size_t kMostHeader = 8192;
constexpr auto kTimeLimit = std::chrono::seconds(10);

std::string make_response(std::string_view status, std::string_view type, std::string_view body) {
  return fmt::format(
      "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
      status, type, body.size(), body);
}

// Reads up to the empty line that ends the header. False at the end of the stream or where it is
// too long.
Task<bool> read_header(Stream& stream, std::string& header, CancelToken cancel) {
  char buffer[1024];
  while (header.find("\r\n\r\n") == std::string::npos && header.find("\n\n") == std::string::npos) {
    Result<size_t> got = co_await stream.read_some(IoVector::buffer(buffer, sizeof buffer), cancel);
    if (!got || *got == 0 || header.size() + *got > kMostHeader) co_return false;
    header.append(buffer, *got);
  }
  co_return true;
}

}  // namespace

SocketAddress parse_metrics_address(const std::string& text) {
  if (text.starts_with("unix:")) return UnixAddress{.path = text.substr(5)};
  size_t colon = text.rfind(':');
  if (colon == std::string::npos)
    throw Error("'{}' is no address: expected 'unix:PATH' or 'HOST:PORT'", text);
  InetAddress address;
  address.host = text.substr(0, colon);
  address.port = text.substr(colon + 1);
  if (address.host.starts_with('[') && address.host.ends_with(']'))
    address.host = address.host.substr(1, address.host.size() - 2);
  return address;
}

MetricsServer::MetricsServer(AioContext& context, std::vector<ListeningSocket> sockets,
                             Collect collect)
    : context_(context), collect_(std::move(collect)), places_(kMostClients) {
  for (ListeningSocket& socket : sockets) {
    files_.push_back(std::move(socket.file));
    listeners_.push_back(std::make_unique<Listener>(context, std::move(socket.fd)));
    scope_.spawn(accept_loop(*listeners_.back()));
  }
}

MetricsServer::~MetricsServer() = default;

Task<void> MetricsServer::stop() {
  stopping_.cancel();
  co_await scope_.join();
}

Task<void> MetricsServer::accept_loop(Listener& listener) {
  while (!stopping_.is_cancelled()) {
    Semaphore::Units units = co_await places_.acquire();
    Result<UniqueFd> fd = co_await listener.accept(stopping_.token());
    if (!fd) co_return;
    scope_.spawn(serve(std::move(*fd), std::move(units)));
  }
}

std::string MetricsServer::respond(std::string_view request_line) const {
  constexpr std::string_view kText = "text/plain; charset=utf-8";
  bool is_get = request_line.starts_with("GET ");
  if (!is_get) return make_response("405 Method Not Allowed", kText, "Only GET is served.\n");
  std::string_view path = request_line.substr(4, request_line.find_first_of(" ?\r\n", 4) - 4);
  if (path != "/metrics" && path != "/")
    return make_response("404 Not Found", kText, "The metrics are at /metrics.\n");
  return make_response("200 OK", "text/plain; version=0.0.4; charset=utf-8", collect_());
}

Task<void> MetricsServer::serve(UniqueFd fd, Semaphore::Units units) {
  SocketStream stream(context_, std::move(fd));
  CancelSource done;
  TaskScope timer;
  timer.spawn(limit(stream, done.token()));
  std::string header;
  if (co_await read_header(stream, header, stopping_.token())) {
    std::string response = respond(header);
    std::ignore = co_await stream.write_all(std::as_bytes(std::span(response)), stopping_.token());
  }
  done.cancel();
  co_await timer.join();
  units.release();
}

Task<void> MetricsServer::limit(Stream& stream, CancelToken done) {
  if (co_await context_.sleep_for(kTimeLimit, done)) stream.shutdown();
}

}  // namespace strata
