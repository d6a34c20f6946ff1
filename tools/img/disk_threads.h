// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <list>
#include <vector>

#include "block/aio/iothread.h"
#include "block/coro/task.h"

namespace strata::tools {

// Threads for work that is mostly copying from and to the page cache: they do that themselves, so
// that what one has read is still in its processor's cache when it writes or compares it. What is
// not in memory they wait for like any loop.
class DiskThreads {
 public:
  // As many as there are processors for them, no more than `most`.
  explicit DiskThreads(unsigned most);

  // Deals out the tasks, and ends when all have ended. Without threads they run in the caller's.
  Task<void> run(std::vector<Task<void>> tasks);

 private:
  std::list<IoThread> threads_;
};

}  // namespace strata::tools
