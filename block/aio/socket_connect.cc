// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/socket_connect.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "block/aio/fd_watch.h"
#include "block/aio/resolve.h"
#include "block/base/error.h"

namespace strata {
namespace {

UniqueFd make_socket(const KernelAddress& address, int flags) {
  return UniqueFd(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | flags, address.protocol));
}

void set_option(int fd, int level, int name, int value) {
  ::setsockopt(fd, level, name, &value, sizeof value);
}

void set_keep_alive(int fd, const InetAddress& address) {
  if (!address.keep_alive) return;
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  auto tune = [fd](int name, uint32_t value) {
    if (value != 0) set_option(fd, IPPROTO_TCP, name, static_cast<int>(value));
  };
  tune(TCP_KEEPCNT, address.keep_alive_count);
  tune(TCP_KEEPIDLE, address.keep_alive_idle);
  tune(TCP_KEEPINTVL, address.keep_alive_interval);
}

in_port_t& port_of(KernelAddress& address) noexcept {
  if (address.family() == AF_INET6)
    return reinterpret_cast<sockaddr_in6&>(address.storage).sin6_port;
  return reinterpret_cast<sockaddr_in&>(address.storage).sin_port;
}

// ---- Listening

// IPv4 clients are taken over an IPv6 socket only where no IPv4 socket is there for them.
bool takes_both_families(const InetAddress& address, const std::vector<KernelAddress>& found) {
  if (address.ipv4 == false || address.ipv6 == false) return false;
  if (address.ipv4 == true && address.ipv6 == true) return true;
  return !address.ipv6 && std::none_of(found.begin(), found.end(), [](const KernelAddress& a) {
    return a.family() == AF_INET;
  });
}

// Tries the ports from that of `address` to `last_port`.
UniqueFd listen_inet(const InetAddress& asked, KernelAddress address, bool v6_only, int backlog) {
  unsigned first_port = ntohs(port_of(address));
  unsigned last_port = asked.to.value_or(static_cast<uint16_t>(first_port));
  if (last_port < first_port) throw Error("Failed to create a socket");
  for (unsigned port = first_port; port <= last_port; ++port) {
    UniqueFd fd = make_socket(address, SOCK_NONBLOCK);
    if (!fd) throw Error::from_errno(errno, "Failed to create a socket");
    set_option(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
    if (address.family() == AF_INET6)
      set_option(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, v6_only ? 1 : 0);
    set_keep_alive(fd.get(), asked);  // accepted connections inherit it
    port_of(address) = htons(static_cast<in_port_t>(port));
    if (::bind(fd.get(), address.get(), address.size) != 0) {
      if (errno != EADDRINUSE) throw Error::from_errno(errno, "Failed to bind socket");
    } else if (::listen(fd.get(), backlog) != 0) {
      if (errno != EADDRINUSE) throw Error::from_errno(errno, "Failed to listen on socket");
    } else {
      return fd;
    }
  }
  throw Error::from_errno(EADDRINUSE, "Failed to find an available port");
}

Task<std::vector<ListeningSocket>> listen_at(InetAddress asked, int backlog) {
  std::vector<KernelAddress> found = co_await resolve(asked, Purpose::listen);
  bool both = takes_both_families(asked, found);
  // A socket for both families has to come before one for IPv4 alone, which then is not needed.
  if (both) std::ranges::partition(found, [](auto& a) { return a.family() == AF_INET6; });
  std::vector<ListeningSocket> sockets;
  std::optional<Error> first_error;
  for (const KernelAddress& address : found) {
    try {
      sockets.push_back({listen_inet(asked, address, !both, backlog), SocketFile()});
    } catch (Error& error) {
      if (!first_error) first_error = std::move(error);
    }
  }
  if (sockets.empty()) throw *first_error;
  co_return sockets;
}

// A fresh name for a socket whose user left the path empty.
std::string invent_path() {
  const char* directory = std::getenv("TMPDIR");
  std::string path =
      std::string(directory != nullptr ? directory : "/tmp") + "/strata-socket-XXXXXX";
  UniqueFd fd(::mkostemp(path.data(), O_CLOEXEC));
  if (!fd) throw Error::from_errno(errno, "Failed to make a temporary socket {}", path);
  ::unlink(path.c_str());
  return path;
}

// The file of a socket is replaced, nobody else's is.
void remove_old_socket(const std::string& path) {
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0 || !S_ISSOCK(info.st_mode)) return;
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    throw Error::from_errno(errno, "Failed to unlink socket {}", path);
}

ListeningSocket listen_at(UnixAddress address, int backlog) {
  if (address.path.empty() && !address.abstract) address.path = invent_path();
  KernelAddress kernel = resolve(address);
  UniqueFd fd = make_socket(kernel, SOCK_NONBLOCK);
  if (!fd) throw Error::from_errno(errno, "Failed to create Unix socket");
  if (!address.abstract) remove_old_socket(address.path);
  if (::bind(fd.get(), kernel.get(), kernel.size) != 0)
    throw Error::from_errno(errno, "Failed to bind socket to {}", address.path);
  SocketFile file = address.abstract ? SocketFile() : SocketFile(address.path);
  if (::listen(fd.get(), backlog) != 0)
    throw Error::from_errno(errno, "Failed to listen on socket");
  return {std::move(fd), std::move(file)};
}

ListeningSocket listen_at(const VsockAddress& address, int backlog) {
  KernelAddress kernel = resolve(address);
  UniqueFd fd = make_socket(kernel, SOCK_NONBLOCK);
  if (!fd) throw Error::from_errno(errno, "Failed to create socket");
  if (::bind(fd.get(), kernel.get(), kernel.size) != 0)
    throw Error::from_errno(errno, "Failed to bind socket");
  if (::listen(fd.get(), backlog) != 0)
    throw Error::from_errno(errno, "Failed to listen on socket");
  return {std::move(fd), SocketFile()};
}

ListeningSocket listen_at(const FdAddress& address, int backlog, PassedFds& passed) {
  UniqueFd fd = passed.take_socket(address.str);
  if (::listen(fd.get(), backlog) != 0)
    throw Error::from_errno(errno, "Failed to listen on fd socket");
  ::fcntl(fd.get(), F_SETFD, FD_CLOEXEC);
  return {std::move(fd), SocketFile()};
}

// ---- Connecting

// 0 or an errno.
Task<int> connect_one(AioContext& context, int fd, const KernelAddress& address,
                      CancelToken cancel) {
  for (;;) {
    if (::connect(fd, address.get(), address.size) == 0 || errno == EISCONN) co_return 0;
    if (errno != EINTR) break;
  }
  // EAGAIN: a Unix socket whose queue is full does not tell when there is room, so that is final.
  if (errno != EINPROGRESS) co_return errno;
  FdWatch watch(context, fd);
  if (!co_await watch.writable(cancel)) co_return ECANCELED;
  int error = 0;
  socklen_t size = sizeof error;
  if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) co_return errno;
  co_return error;
}

Task<UniqueFd> connect_first(AioContext& context, std::vector<KernelAddress> addresses,
                             std::string text, CancelToken cancel) {
  int error = 0;
  for (const KernelAddress& address : addresses) {
    UniqueFd fd = make_socket(address, SOCK_NONBLOCK);
    if (!fd) throw Error::from_errno(errno, "Failed to create socket");
    error = co_await connect_one(context, fd.get(), address, cancel);
    if (error == 0) co_return fd;
    if (error == ECANCELED) break;
  }
  throw Error::from_errno(error, "Failed to connect to '{}'", text);
}

}  // namespace

SocketFile::SocketFile(std::string path) : path_(std::move(path)) {
  struct stat info{};
  if (::lstat(path_.c_str(), &info) != 0) {
    path_.clear();
    return;
  }
  device_ = info.st_dev;
  inode_ = info.st_ino;
}

SocketFile::~SocketFile() {
  if (path_.empty()) return;
  struct stat info{};
  if (::lstat(path_.c_str(), &info) == 0 && info.st_dev == device_ && info.st_ino == inode_)
    ::unlink(path_.c_str());
}

Task<std::vector<ListeningSocket>> listen_on(AioContext&, SocketAddress address, int backlog,
                                             PassedFds& passed) {
  if (auto* inet = std::get_if<InetAddress>(&address))
    co_return co_await listen_at(std::move(*inet), backlog);
  std::vector<ListeningSocket> sockets;
  if (auto* local = std::get_if<UnixAddress>(&address))
    sockets.push_back(listen_at(std::move(*local), backlog));
  else if (auto* vsock = std::get_if<VsockAddress>(&address))
    sockets.push_back(listen_at(*vsock, backlog));
  else
    sockets.push_back(listen_at(std::get<FdAddress>(address), backlog, passed));
  co_return sockets;
}

Task<UniqueFd> connect_to(AioContext& context, SocketAddress address, PassedFds& passed,
                          CancelToken cancel) {
  if (auto* fd = std::get_if<FdAddress>(&address)) {
    UniqueFd socket = passed.take_socket(fd->str);
    ::fcntl(socket.get(), F_SETFD, FD_CLOEXEC);
    co_return socket;
  }
  std::vector<KernelAddress> addresses;
  if (auto* inet = std::get_if<InetAddress>(&address))
    addresses = co_await resolve(*inet, Purpose::connect);
  else if (auto* local = std::get_if<UnixAddress>(&address))
    addresses.push_back(resolve(*local));
  else
    addresses.push_back(resolve(std::get<VsockAddress>(address)));
  UniqueFd fd = co_await connect_first(context, std::move(addresses), describe(address), cancel);
  if (auto* inet = std::get_if<InetAddress>(&address)) set_keep_alive(fd.get(), *inet);
  co_return fd;
}

}  // namespace strata
