// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>
#include <thread>

#include "block/aio/aio_context.h"

namespace strata {

// A thread that runs an AioContext from construction to destruction.
class IoThread {
 public:
  explicit IoThread(std::string id);
  // Nothing may be using the context any more.
  ~IoThread();

  AioContext& context() noexcept { return context_; }
  // The kernel's id of the thread.
  pid_t thread_id() const noexcept { return thread_id_; }

 private:
  AioContext context_;
  pid_t thread_id_ = 0;
  std::thread thread_;
};

}  // namespace strata
