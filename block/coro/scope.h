// SPDX-License-Identifier: GPL-2.0-or-later
//
// TaskScope: the owner of what runs beside its parent.
//
//   TaskScope scope;
//   scope.spawn(serve(client));   // starts now; the arguments were taken by value
//   ...
//   co_await scope.join();        // every way out of the function passes here
//
// A scope belongs to one executor. Its destructor asserts that everything spawned has ended. The
// first exception that leaves a spawned task is kept and thrown by join().
#pragma once

#include <cstddef>
#include <exception>

#include "block/coro/executor.h"
#include "block/coro/task.h"

namespace strata {

class TaskScope {
 public:
  TaskScope() noexcept = default;
  ~TaskScope();
  TaskScope(const TaskScope&) = delete;
  TaskScope& operator=(const TaskScope&) = delete;

  // Runs `task` until it first suspends; it goes on when what it waits for is there.
  void spawn(Task<void> task);
  // Waits until nothing spawned is running, including what is spawned meanwhile. One waiter at a
  // time.
  Task<void> join();

  size_t running() const noexcept { return running_; }

 private:
  struct Root;
  friend struct Root;
  static Root run(TaskScope& scope, Task<void> task);
  void ended() noexcept;

  size_t running_ = 0;
  std::exception_ptr first_exception_;
  Resumption joiner_;
  bool joining_ = false;
};

}  // namespace strata
