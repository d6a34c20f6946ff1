// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/disk_threads.h"

#include <algorithm>
#include <system_error>
#include <thread>

#include "block/aio/run_in.h"

namespace strata::tools {

DiskThreads::DiskThreads(unsigned most) {
  unsigned count = std::min(std::max(std::thread::hardware_concurrency(), 1u), most);
  try {
    while (threads_.size() < count)
      threads_.emplace_back("disk").context().set_thread_pool_limits({.min = 0, .max = 0});
  } catch (const std::system_error&) {  // those that there are will do
  }
  next_ = threads_.begin();
}

Task<void> DiskThreads::run(Task<void> task) {
  if (threads_.empty()) return task;
  if (next_ == threads_.end()) next_ = threads_.begin();
  return run_in((next_++)->context(), std::move(task));
}

}  // namespace strata::tools
