// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "block/base/unique_fd.h"

namespace strata::fuse_export {

// Receives up to `bytes`, and in `fd` the descriptor that came along, if one did. What recvmsg()
// returns.
inline ssize_t receive_with_descriptor(int socket, void* into, size_t bytes,
                                       UniqueFd& fd) noexcept {
  iovec data{into, bytes};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t received = 0;
  do {
    received = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  const cmsghdr* header = received > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) return received;
  int number = -1;
  std::memcpy(&number, CMSG_DATA(header), sizeof number);
  fd.reset(number);
  return received;
}

}  // namespace strata::fuse_export
