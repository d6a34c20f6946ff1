// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/aio/fd_watch.h"
#include "block/base/result.h"
#include "block/base/unique_fd.h"
#include "block/coro/task.h"

namespace strata {

// A listening socket in one AioContext. The descriptor is made non-blocking.
class Listener {
 public:
  Listener(AioContext& context, UniqueFd fd);

  // The next connection (close-on-exec), or an errno. Waits out the shortage where the process or
  // the host has no descriptor or memory to spare. ECANCELED when cancelled.
  Task<Result<UniqueFd>> accept(CancelToken cancel = {});

  int fd() const noexcept { return fd_.get(); }

 private:
  AioContext& context_;
  UniqueFd fd_;
  FdWatch watch_;
};

}  // namespace strata
