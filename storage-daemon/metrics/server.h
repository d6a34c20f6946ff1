// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block/aio/listener.h"
#include "block/aio/socket_connect.h"
#include "block/aio/stream.h"
#include "block/coro/scope.h"
#include "block/coro/semaphore.h"

namespace strata {

class AioContext;

// Answers GET /metrics over HTTP/1.1, a request a connection; nothing else. Lives in one context. A
// client gets ten seconds and a small header; no more than a few are served at a time.
class MetricsServer {
 public:
  using Collect = std::function<std::string()>;

  // `sockets` listen already.
  MetricsServer(AioContext& context, std::vector<ListeningSocket> sockets, Collect collect);
  // Stopped before.
  ~MetricsServer();

  Task<void> stop();

 private:
  Task<void> accept_loop(Listener& listener);
  Task<void> serve(UniqueFd fd, Semaphore::Units units);
  Task<void> limit(Stream& stream, CancelToken done);
  std::string respond(std::string_view request_line) const;

  AioContext& context_;
  Collect collect_;
  std::vector<SocketFile> files_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  Semaphore places_;
  CancelSource stopping_;
  TaskScope scope_;
};

// "unix:PATH" or "HOST:PORT", as --metrics takes it. Throws Error.
SocketAddress parse_metrics_address(const std::string& text);

}  // namespace strata
