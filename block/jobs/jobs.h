// SPDX-License-Identifier: GPL-2.0-or-later
//
// All jobs of a block layer.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "block/coro/scope.h"
#include "block/graph/layer.h"
#include "block/jobs/job.h"

namespace strata {

// Main loop only. What takes a name throws Error where there is no such job, or its state does not
// allow what is asked.
class Jobs {
 public:
  explicit Jobs(BlockLayer& layer) noexcept : layer_(layer) {}
  // Shut down before.
  ~Jobs() = default;
  Jobs(const Jobs&) = delete;
  Jobs& operator=(const Jobs&) = delete;

  // The job is there and running afterwards; its work begins on a later turn. Throws Error.
  void start(MainLoop& loop, JobOptions options, std::unique_ptr<JobWork> work);

  void pause(const std::string& id);
  void resume(const std::string& id);
  void cancel(const std::string& id);
  void complete(const std::string& id);
  // Ends when the job has taken effect, or has not.
  Task<void> finalize(std::string id);
  void dismiss(const std::string& id);

  // The latest first.
  std::vector<qapi::JobInfo> query() const;
  // Cancels all of them and waits for their end.
  Task<void> shut_down();

 private:
  friend class Job;
  using JobPtr = std::shared_ptr<Job>;

  JobPtr find(const std::string& id) const;
  Task<void> live(JobPtr job);
  Task<void> work(Job& job);
  Task<void> take_effect(Job& job);
  void conclude(Job& job);
  void forget(Job& job);

  BlockLayer& layer_;
  std::vector<JobPtr> jobs_;
  TaskScope scope_;
};

}  // namespace strata
