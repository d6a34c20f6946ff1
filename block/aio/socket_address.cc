// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/socket_address.h"

#include <linux/vm_sockets.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>

namespace strata {
namespace {

struct Describe {
  std::string operator()(const InetAddress& a) const { return a.host + ":" + a.port; }
  std::string operator()(const UnixAddress& a) const { return a.path; }
  std::string operator()(const VsockAddress& a) const { return a.cid + ":" + a.port; }
  std::string operator()(const FdAddress& a) const { return a.str; }
};

std::optional<SocketAddress> from_inet(const sockaddr_storage& storage, socklen_t size) {
  char host[NI_MAXHOST];
  char port[NI_MAXSERV];
  if (::getnameinfo(reinterpret_cast<const sockaddr*>(&storage), size, host, sizeof host, port,
                    sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return std::nullopt;
  InetAddress address{.host = host, .port = port, .numeric = true};
  (storage.ss_family == AF_INET6 ? address.ipv6 : address.ipv4) = true;
  return address;
}

UnixAddress from_unix(const sockaddr_storage& storage, socklen_t size) {
  const auto& address = reinterpret_cast<const sockaddr_un&>(storage);
  constexpr size_t kHeader = offsetof(sockaddr_un, sun_path);
  std::string path(address.sun_path, size > kHeader ? size - kHeader : 0);
  if (path.empty() || path[0] != '\0') return {.path = path.substr(0, path.find('\0'))};
  return {.path = path.substr(1), .abstract = true};
}

VsockAddress from_vsock(const sockaddr_storage& storage) {
  const auto& address = reinterpret_cast<const sockaddr_vm&>(storage);
  return {std::to_string(address.svm_cid), std::to_string(address.svm_port)};
}

std::optional<SocketAddress> from_kernel(const sockaddr_storage& storage, socklen_t size) {
  switch (storage.ss_family) {
    case AF_INET:
    case AF_INET6:
      return from_inet(storage, size);
    case AF_UNIX:
      return from_unix(storage, size);
    case AF_VSOCK:
      return from_vsock(storage);
    default:
      return std::nullopt;
  }
}

template <class Call>
std::optional<SocketAddress> ask(Call call, int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  if (call(fd, reinterpret_cast<sockaddr*>(&storage), &size) != 0) return std::nullopt;
  return from_kernel(storage, size);
}

}  // namespace

std::string describe(const SocketAddress& address) {
  return std::visit(Describe(), address);
}

std::optional<SocketAddress> local_address(int fd) {
  return ask(::getsockname, fd);
}

std::optional<SocketAddress> peer_address(int fd) {
  return ask(::getpeername, fd);
}

}  // namespace strata
