// SPDX-License-Identifier: GPL-2.0-or-later
//
// Where a socket listens or connects to, as users write it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

namespace strata {

// What the schema's InetSocketAddress says.
struct InetAddress {
  std::string host;  // "" listens on every address
  std::string port;  // a number or a service name
  bool numeric = false;
  std::optional<uint16_t> to;  // listening: the last port to try
  std::optional<bool> ipv4;
  std::optional<bool> ipv6;
  bool keep_alive = false;
  uint32_t keep_alive_count = 0;     // 0: the system's
  uint32_t keep_alive_idle = 0;      // seconds
  uint32_t keep_alive_interval = 0;  // seconds
  bool mptcp = false;
};

struct UnixAddress {
  std::string path;
  bool abstract = false;
  bool tight = true;  // an abstract name is as long as `path`, not padded with zeroes
};

struct VsockAddress {
  std::string cid;
  std::string port;
};

// A descriptor that the process was started with, by number or by its name in $LISTEN_FDNAMES.
struct FdAddress {
  std::string str;
};

using SocketAddress = std::variant<InetAddress, UnixAddress, VsockAddress, FdAddress>;

// "/path", "host:port" or "cid:port", as error texts quote it.
std::string describe(const SocketAddress& address);

// The address a socket is bound or connected to; nothing for families not listed above.
std::optional<SocketAddress> local_address(int fd);
std::optional<SocketAddress> peer_address(int fd);

}  // namespace strata
