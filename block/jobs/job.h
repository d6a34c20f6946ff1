// SPDX-License-Identifier: GPL-2.0-or-later
//
// A job: long work that a command starts and that goes on when the command has been answered.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "block/base/error.h"
#include "block/coro/event.h"
#include "block/coro/task.h"
#include "qapi/types_job.h"

namespace strata {

class Job;

// What a kind of job does. Everything runs in the main loop.
class JobWork {
 public:
  virtual ~JobWork() = default;

  // The work itself. Throws Error where it fails. It looks at job.is_cancelled() where it can stop,
  // and awaits job.pause_point() where it can rest.
  virtual Task<void> run(Job& job) = 0;
  // It was done, and is to take effect: the last thing that can fail (throws Error).
  virtual Task<void> prepare() { return Task<void>::ready(); }
  // One of the two follows, and ends it.
  virtual void commit() noexcept {}
  virtual void abort() noexcept {}
  // The job is ready and its user wants it to complete. Throws Error.
  virtual void complete(Job& job);
};

struct JobOptions {
  std::string id;
  qapi::JobType type;
  bool auto_finalize = true;
  bool auto_dismiss = true;
};

class Job {
 public:
  const std::string& id() const noexcept { return options_.id; }
  qapi::JobType type() const noexcept { return options_.type; }
  qapi::JobStatus status() const noexcept { return status_; }
  qapi::JobInfo info() const;

  // --- For the work ---

  bool is_cancelled() const noexcept { return cancelled_; }
  // Rests while the job is paused.
  Task<void> pause_point();
  // How much there is to do, and how much of it is done, in units of the job's own.
  void set_total(uint64_t total) noexcept { total_ = total; }
  void set_done(uint64_t done) noexcept { done_ = done; }
  // What changes from now on is copied until the user says complete.
  void become_ready() { move(qapi::JobStatus::ready); }

 private:
  friend class Jobs;

  Job(class Jobs& jobs, JobOptions options, std::unique_ptr<JobWork> work)
      : jobs_(jobs), options_(std::move(options)), work_(std::move(work)) {}

  // Throws Error if the state forbids it.
  void check(qapi::JobVerb verb) const;
  // Tells whoever listens.
  void move(qapi::JobStatus status);

  class Jobs& jobs_;
  JobOptions options_;
  std::unique_ptr<JobWork> work_;
  qapi::JobStatus status_ = qapi::JobStatus::undefined;
  std::optional<Error> error_;
  uint64_t total_ = 0;
  uint64_t done_ = 0;
  bool cancelled_ = false;
  bool paused_by_user_ = false;
  Event may_go_on_{true};
  Event may_finalize_;
  Event concluded_;
};

}  // namespace strata
