// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <list>

#include "block/aio/iothread.h"
#include "block/coro/task.h"

namespace strata::tools {

// Threads for work that is mostly copying from and to the page cache: they do that themselves, in
// the turn in which it is asked for. What is not in memory they wait for like any loop.
class DiskThreads {
 public:
  // As many as there are processors for them, no more than `most`.
  explicit DiskThreads(unsigned most);

  // In one of them, by turns; without threads in the caller's.
  Task<void> run(Task<void> task);

 private:
  std::list<IoThread> threads_;
  std::list<IoThread>::iterator next_;
};

}  // namespace strata::tools
