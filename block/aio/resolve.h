// SPDX-License-Identifier: GPL-2.0-or-later
//
// From addresses as users write them to those that the kernel takes.
#pragma once

#include <sys/socket.h>

#include <vector>

#include "block/aio/socket_address.h"
#include "block/coro/task.h"

namespace strata {

struct KernelAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
  int protocol = 0;

  int family() const noexcept { return storage.ss_family; }
  const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(&storage); }
};

enum class Purpose { listen, connect };

// Never empty; in the order in which to try them. Host names are looked up in a thread. Throws
// Error.
Task<std::vector<KernelAddress>> resolve(InetAddress address, Purpose purpose);
KernelAddress resolve(const UnixAddress& address);
KernelAddress resolve(const VsockAddress& address);

}  // namespace strata
