// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <optional>

#include "block/aio/fd_watch.h"
#include "block/aio/stream.h"

namespace strata {

// A connected socket, a pipe or a terminal, made non-blocking. Reads and writes are tried at once
// and wait for the reactor only when the kernel says so.
class SocketStream final : public Stream {
 public:
  SocketStream(AioContext& context, UniqueFd fd);

  Task<Result<size_t>> read_some(IoVector into, CancelToken cancel = {}) override;
  Task<Result<size_t>> read_some_with_fds(IoVector into, std::vector<UniqueFd>& fds,
                                          CancelToken cancel = {}) override;
  Task<Status> write(std::span<iovec> parts, CancelToken cancel = {}) override;
  Task<Status> write_with_fds(std::span<const std::byte> data, std::span<const int> fds,
                              CancelToken cancel = {}) override;
  void shutdown() noexcept override;

  int fd() const noexcept { return fd_.get(); }

  // Moves to another context: unbind() in the one it is bound to, while nobody reads or writes,
  // then bind() in the other. Unbound, it can be shut down and destroyed in any thread, but not
  // used.
  void unbind() noexcept { watch_.reset(); }
  void bind(AioContext& context) { watch_.emplace(context, fd_.get()); }

 private:
  long receive(IoVector into, std::vector<UniqueFd>* fds) noexcept;
  long send(std::span<const iovec> parts, std::span<const int> fds) noexcept;
  Task<Result<size_t>> wait_and_read(IoVector into, std::vector<UniqueFd>* fds, CancelToken cancel);
  Task<Status> wait_and_write(std::span<iovec> parts, std::span<const int> fds, CancelToken cancel);

  UniqueFd fd_;
  bool is_socket_;
  std::optional<FdWatch> watch_;
};

}  // namespace strata
