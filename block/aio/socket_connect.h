// SPDX-License-Identifier: GPL-2.0-or-later
//
// Sockets that listen or are connected, from addresses as users write them.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "block/aio/passed_fds.h"
#include "block/aio/socket_address.h"
#include "block/base/unique_fd.h"
#include "block/coro/cancel.h"
#include "block/coro/task.h"

namespace strata {

class AioContext;

// Removes the file that a listening Unix socket is reached through, unless another socket has taken
// its place since.
class SocketFile {
 public:
  SocketFile() noexcept = default;
  // `path` names a socket just bound by this process.
  explicit SocketFile(std::string path);
  SocketFile(SocketFile&& other) noexcept : path_(std::exchange(other.path_, {})) {
    device_ = other.device_;
    inode_ = other.inode_;
  }
  SocketFile& operator=(SocketFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(device_, other.device_);
    std::swap(inode_, other.inode_);
    return *this;
  }
  ~SocketFile();
  // The file stays.
  void leave() noexcept { path_.clear(); }

 private:
  std::string path_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

// `file` must live as long as `fd` is listened to.
struct ListeningSocket {
  UniqueFd fd;
  SocketFile file;
};

// Listens at `address`. A host with several addresses gets one socket for each that can be had, and
// fails only if there is none. A Unix socket that has the name already is replaced, as in QEMU; any
// other file stays and is an error. Host names are looked up in a thread, and the context goes on
// meanwhile. Throws Error.
Task<std::vector<ListeningSocket>> listen_on(AioContext& context, SocketAddress address,
                                             int backlog, PassedFds& passed);

// A connected, non-blocking socket. Throws Error; one with errno ECANCELED if cancelled.
Task<UniqueFd> connect_to(AioContext& context, SocketAddress address, PassedFds& passed,
                          CancelToken cancel = {});

}  // namespace strata
