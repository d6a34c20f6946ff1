// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <utility>

#include "block/coro/executor.h"
#include "block/coro/scope.h"
#include "block/coro/task.h"

namespace strata::test {

// An executor of one thread that runs when it is told to.
class HandExecutor final : public Executor {
 public:
  void schedule(Resumption& resumption) noexcept override { due_.push(resumption); }

  // Until nothing is left to do; returns how many were resumed.
  int run() {
    int resumed = 0;
    for (; !due_.empty(); ++resumed) due_.pop().handle.resume();
    return resumed;
  }
  // One at most.
  bool step() {
    if (due_.empty()) return false;
    due_.pop().handle.resume();
    return true;
  }

  // Starts `task`; it must have ended when this executor does.
  void start(Task<void> task) { scope_.spawn(std::move(task)); }
  size_t running() const { return scope_.running(); }

 private:
  ResumptionList due_;
  Bind bind_{*this};
  TaskScope scope_;
};

}  // namespace strata::test
