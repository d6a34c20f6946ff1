// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/graph/socket_options.h"

namespace strata {
namespace {

InetAddress convert(const qapi::InetSocketAddress& from) {
  return {.host = from.host,
          .port = from.port,
          .numeric = from.numeric.value_or(false),
          .to = from.to,
          .ipv4 = from.ipv4,
          .ipv6 = from.ipv6,
          .keep_alive = from.keep_alive.value_or(false),
          .keep_alive_count = from.keep_alive_count.value_or(0),
          .keep_alive_idle = from.keep_alive_idle.value_or(0),
          .keep_alive_interval = from.keep_alive_interval.value_or(0),
          .mptcp = from.mptcp.value_or(false)};
}

UnixAddress convert(const qapi::UnixSocketAddress& from) {
  return {from.path, from.abstract.value_or(false), from.tight.value_or(true)};
}

}  // namespace

SocketAddress to_socket_address(const qapi::SocketAddressLegacy& address) {
  if (auto* inet = address.get_if<qapi::InetSocketAddressWrapper>()) return convert(inet->data);
  if (auto* local = address.get_if<qapi::UnixSocketAddressWrapper>()) return convert(local->data);
  if (auto* vsock = address.get_if<qapi::VsockSocketAddressWrapper>())
    return VsockAddress{vsock->data.cid, vsock->data.port};
  return FdAddress{address.get_if<qapi::FdSocketAddressWrapper>()->data.str};
}

SocketAddress to_socket_address(const qapi::SocketAddress& address) {
  if (auto* inet = address.get_if<qapi::InetSocketAddress>()) return convert(*inet);
  if (auto* local = address.get_if<qapi::UnixSocketAddress>()) return convert(*local);
  if (auto* vsock = address.get_if<qapi::VsockSocketAddress>())
    return VsockAddress{vsock->cid, vsock->port};
  return FdAddress{address.get_if<qapi::FdSocketAddress>()->str};
}

}  // namespace strata
