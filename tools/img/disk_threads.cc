// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/disk_threads.h"

#include <algorithm>
#include <system_error>
#include <thread>

#include "block/aio/run_in.h"
#include "block/coro/scope.h"

namespace strata::tools {

DiskThreads::DiskThreads(unsigned most) {
  unsigned count = std::min(std::max(std::thread::hardware_concurrency(), 1u), most);
  try {
    while (threads_.size() < count)
      threads_.emplace_back("disk").context().set_thread_pool_limits({.min = 0, .max = 0});
  } catch (const std::system_error&) {  // those that there are will do
  }
}

Task<void> DiskThreads::run(std::vector<Task<void>> tasks) {
  TaskScope scope;
  auto thread = threads_.begin();
  for (Task<void>& task : tasks) {
    if (threads_.empty()) {
      scope.spawn(std::move(task));
      continue;
    }
    scope.spawn(run_in(thread->context(), std::move(task)));
    if (++thread == threads_.end()) thread = threads_.begin();
  }
  co_await scope.join();
}

}  // namespace strata::tools
