// SPDX-License-Identifier: GPL-2.0-or-later
//
// The seam to the kernel's sockets: a byte stream that a coroutine reads and writes.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "block/base/io_vector.h"
#include "block/base/result.h"
#include "block/base/unique_fd.h"
#include "block/coro/cancel.h"
#include "block/coro/task.h"

namespace strata {

// One reader and one writer at a time, both in the stream's AioContext. Errors are errnos; a
// cancelled wait is ECANCELED. Memory stays the caller's and must live until the task has ended.
class Stream {
 public:
  virtual ~Stream() = default;

  // Receives between 1 and into.size() bytes; 0 at the end of the stream.
  virtual Task<Result<size_t>> read_some(IoVector into, CancelToken cancel = {}) = 0;
  // As read_some(), and appends descriptors that came along (SCM_RIGHTS) to `fds`. At most 16 with
  // one message; streams that cannot carry descriptors deliver none.
  virtual Task<Result<size_t>> read_some_with_fds(IoVector into, std::vector<UniqueFd>& fds,
                                                  CancelToken cancel = {}) = 0;
  // Sends everything. `parts` is used up: its entries are changed.
  virtual Task<Status> write(std::span<iovec> parts, CancelToken cancel = {}) = 0;
  // Sends `data` with the descriptors `fds` (borrowed) attached to its first byte.
  virtual Task<Status> write_with_fds(std::span<const std::byte> data, std::span<const int> fds,
                                      CancelToken cancel = {}) = 0;
  // No more reading or writing, from any thread's next system call on; wakes those who wait.
  virtual void shutdown() noexcept = 0;
  // Why reading failed, for people, given what read_some() or read_exactly() said.
  virtual std::string describe_read_failure(int error) const;

  // Until `into` is full: 0 or an errno; EPIPE where the stream ends in its midst, ENODATA where it
  // ends before its first byte.
  Task<Status> read_exactly(IoVector into, CancelToken cancel = {});
  Task<Status> write_all(std::span<const std::byte> data, CancelToken cancel = {});
};

}  // namespace strata
