// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/listener.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>

#include "block/aio/aio_context.h"

namespace strata {
namespace {

constexpr auto kShortagePause = std::chrono::milliseconds(100);

// The connection was lost, or the network failed, before it was accepted: see accept(2).
bool concerns_one_connection(int error) noexcept {
  switch (error) {
    case EINTR:
    case ECONNABORTED:
    case ENETDOWN:
    case EPROTO:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case EOPNOTSUPP:
    case ENETUNREACH:
      return true;
    default:
      return false;
  }
}

bool is_shortage(int error) noexcept {
  return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

}  // namespace

Listener::Listener(AioContext& context, UniqueFd fd)
    : context_(context), fd_(std::move(fd)), watch_(context, fd_.get()) {
  ::fcntl(fd_.get(), F_SETFL, ::fcntl(fd_.get(), F_GETFL) | O_NONBLOCK);
}

Task<Result<UniqueFd>> Listener::accept(CancelToken cancel) {
  for (;;) {
    if (cancel.is_cancelled()) co_return Status::error(ECANCELED);
    UniqueFd connection(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (connection) co_return std::move(connection);
    int error = errno;
    if (error == EAGAIN)
      co_await watch_.readable(cancel);
    else if (is_shortage(error))
      co_await context_.sleep_for(kShortagePause, cancel);
    else if (!concerns_one_connection(error))
      co_return Status::error(error);
  }
}

}  // namespace strata
