// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/jobs/jobs.h"

#include <algorithm>
#include <cassert>
#include <cerrno>

#include "block/aio/aio_context.h"
#include "block/jobs/job_states.h"

namespace strata {

using qapi::JobStatus;
using qapi::JobVerb;

void JobWork::complete(Job& job) {
  throw Error("Job '{}' in state '{}' cannot accept command verb '{}'", job.id(),
              qapi::to_string(job.status()), qapi::to_string(JobVerb::complete));
}

qapi::JobInfo Job::info() const {
  qapi::JobInfo info;
  info.id = id();
  info.type = type();
  info.status = status_;
  info.current_progress = static_cast<int64_t>(done_);
  info.total_progress = static_cast<int64_t>(total_);
  if (error_) info.error = error_->text();
  return info;
}

void Job::check(JobVerb verb) const {
  if (!job_accepts(status_, verb))
    throw Error("Job '{}' in state '{}' cannot accept command verb '{}'", id(),
                qapi::to_string(status_), qapi::to_string(verb));
}

void Job::move(JobStatus status) {
  assert(job_may_become(status_, status));
  status_ = status;
  jobs_.layer_.emit("JOB_STATUS_CHANGE",
                    {{"id", id()}, {"status", std::string(qapi::to_string(status))}});
}

Task<void> Job::pause_point() {
  if (may_go_on_.is_set() || cancelled_) co_return;
  JobStatus before = status_;
  move(before == JobStatus::ready ? JobStatus::standby : JobStatus::paused);
  while (!may_go_on_.is_set()) co_await may_go_on_.wait();
  move(before);
}

Jobs::JobPtr Jobs::find(const std::string& id) const {
  auto found =
      std::find_if(jobs_.begin(), jobs_.end(), [&](const JobPtr& job) { return job->id() == id; });
  if (found == jobs_.end()) throw Error("Job not found");
  return *found;
}

void Jobs::start(MainLoop&, JobOptions options, std::unique_ptr<JobWork> work) {
  if (!is_wellformed_id(options.id)) throw Error("Invalid job ID '{}'", options.id);
  for (const JobPtr& other : jobs_) {
    if (other->id() == options.id) throw Error("Job ID '{}' already in use", options.id);
  }
  JobPtr job(new Job(*this, std::move(options), std::move(work)));
  jobs_.push_back(job);
  job->move(JobStatus::created);
  job->move(JobStatus::running);
  scope_.spawn(live(std::move(job)));
}

void Jobs::pause(const std::string& id) {
  JobPtr job = find(id);
  job->check(JobVerb::pause);
  if (job->paused_by_user_) throw Error("Job is already paused");
  job->paused_by_user_ = true;
  job->may_go_on_.reset();
}

void Jobs::resume(const std::string& id) {
  JobPtr job = find(id);
  if (!job->paused_by_user_) throw Error("Can't resume a job that was not paused");
  job->check(JobVerb::resume);
  job->paused_by_user_ = false;
  job->may_go_on_.set();
}

void Jobs::cancel(const std::string& id) {
  JobPtr job = find(id);
  job->check(JobVerb::cancel);
  job->cancelled_ = true;
  job->may_go_on_.set();
  job->may_finalize_.set();
}

void Jobs::complete(const std::string& id) {
  JobPtr job = find(id);
  job->check(JobVerb::complete);
  job->work_->complete(*job);
}

Task<void> Jobs::finalize(std::string id) {
  JobPtr job = find(id);
  job->check(JobVerb::finalize);
  job->may_finalize_.set();
  co_await job->concluded_.wait();
}

void Jobs::dismiss(const std::string& id) {
  JobPtr job = find(id);
  job->check(JobVerb::dismiss);
  forget(*job);
}

std::vector<qapi::JobInfo> Jobs::query() const {
  std::vector<qapi::JobInfo> all;
  for (auto job = jobs_.rbegin(); job != jobs_.rend(); ++job) all.push_back((*job)->info());
  return all;
}

// From the command's answer to the conclusion.
Task<void> Jobs::live(JobPtr job) {
  co_await layer_.main_loop().context().yield();
  co_await work(*job);
  if (!job->error_) {
    job->move(JobStatus::waiting);
    job->move(JobStatus::pending);
    if (!job->options_.auto_finalize) co_await job->may_finalize_.wait();
    co_await take_effect(*job);
  }
  conclude(*job);
}

Task<void> Jobs::work(Job& job) {
  try {
    co_await job.work_->run(job);
  } catch (const Error& error) {
    job.error_ = error;
  }
  if (job.cancelled_ && !job.error_)
    job.error_ = Error::from_text(Error::describe_errno(ECANCELED), ECANCELED);
}

Task<void> Jobs::take_effect(Job& job) {
  try {
    if (job.cancelled_) throw Error::from_text(Error::describe_errno(ECANCELED), ECANCELED);
    co_await job.work_->prepare();
  } catch (const Error& error) {
    job.error_ = error;
  }
}

void Jobs::conclude(Job& job) {
  if (job.error_) {
    job.move(JobStatus::aborting);
    job.work_->abort();
  } else {
    job.work_->commit();
  }
  job.move(JobStatus::concluded);
  job.work_.reset();
  job.concluded_.set();
  if (job.options_.auto_dismiss) forget(job);
}

void Jobs::forget(Job& job) {
  job.move(JobStatus::null);
  std::erase_if(jobs_, [&](const JobPtr& other) { return other.get() == &job; });
}

Task<void> Jobs::shut_down() {
  std::vector<JobPtr> all = jobs_;
  for (const JobPtr& job : all) {
    if (job_accepts(job->status(), JobVerb::cancel)) cancel(job->id());
  }
  co_await scope_.join();
  jobs_.clear();
}

}  // namespace strata
