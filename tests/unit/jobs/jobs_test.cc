// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/jobs/jobs.h"

#include <catch2/catch.hpp>

#include "block/jobs/job_states.h"
#include "tests/unit/support/memory_driver.h"

namespace strata {
namespace {

using qapi::JobStatus;
using qapi::JobVerb;

// Works when told to.
struct TestWork final : JobWork {
  struct Shared {
    Event go;
    bool fail = false;
    bool fail_prepare = false;
    bool ready = false;
    bool completed = false;
    std::vector<std::string> calls;
  };
  explicit TestWork(Shared& s) : shared(s) {}

  Task<void> run(Job& job) override {
    job.set_total(10);
    if (shared.ready) {
      job.become_ready();
      while (!shared.completed && !job.is_cancelled()) {
        co_await job.pause_point();
        co_await AioContext::current()->yield();
      }
      co_return;
    }
    while (!shared.go.is_set() && !job.is_cancelled()) {
      co_await job.pause_point();
      co_await AioContext::current()->yield();
    }
    job.set_done(10);
    if (shared.fail) throw Error("It did not work");
  }
  Task<void> prepare() override {
    if (shared.fail_prepare) throw Error("Not prepared");
    co_return;
  }
  void commit() noexcept override { shared.calls.emplace_back("commit"); }
  void abort() noexcept override { shared.calls.emplace_back("abort"); }
  void complete(Job&) override { shared.completed = true; }
  Shared& shared;
};

struct JobFixture {
  AioContext context{"test"};
  MainLoop loop{context};
  std::vector<std::string> states;
  BlockLayer layer{loop, {}, [this](std::string_view, boost::json::object data) {
                     states.emplace_back(data.at("status").as_string());
                   }};
  Jobs jobs{layer};
  TestWork::Shared shared;

  // In the loop, where commands are.
  void act(std::function<void()> action) { context.run_to_completion(call(std::move(action))); }
  static Task<void> call(std::function<void()> action) {
    action();
    co_return;
  }
  void start(JobOptions options = {"job0", qapi::JobType::create}) {
    act([&] { jobs.start(loop, std::move(options), std::make_unique<TestWork>(shared)); });
  }
  static Task<void> turns(AioContext& context, int count) {
    while (count-- > 0) co_await context.yield();
  }
  void turn(int count = 5) { context.run_to_completion(turns(context, count)); }
  void end() { context.run_to_completion(jobs.shut_down()); }
  std::string error(std::function<void()> action) {
    try {
      act(std::move(action));
    } catch (const Error& caught) {
      return caught.text();
    }
    return "";
  }
};

using States = std::vector<std::string>;

TEST_CASE("a job that succeeds passes all states and is gone") {
  JobFixture f;
  f.shared.go.set();
  f.start();
  CHECK(f.states == States{"created", "running"});
  f.turn();
  CHECK(f.states == States{"created", "running", "waiting", "pending", "concluded", "null"});
  CHECK(f.shared.calls == States{"commit"});
  CHECK(f.jobs.query().empty());
  f.end();
}

TEST_CASE("a job that fails is aborted and keeps its error until it is dismissed") {
  JobFixture f;
  f.shared.go.set();
  f.shared.fail = true;
  f.start({.id = "job0", .type = qapi::JobType::create, .auto_dismiss = false});
  f.turn();
  CHECK(f.states == States{"created", "running", "aborting", "concluded"});
  CHECK(f.shared.calls == States{"abort"});
  CHECK(f.jobs.query().at(0).error == "It did not work");
  CHECK(f.error([&] { f.jobs.start(f.loop, {"job0", qapi::JobType::create}, nullptr); }) ==
        "Job ID 'job0' already in use");
  f.act([&] { f.jobs.dismiss("job0"); });
  CHECK(f.error([&] { f.jobs.dismiss("job0"); }) == "Job not found");
  f.end();
}

TEST_CASE("a job that is to be finalized by hand rests in pending") {
  JobFixture f;
  f.shared.go.set();
  f.start({.id = "job0", .type = qapi::JobType::create, .auto_finalize = false});
  f.turn();
  CHECK(f.states.back() == "pending");
  CHECK(f.error([&] { f.jobs.pause("job0"); }) ==
        "Job 'job0' in state 'pending' cannot accept command verb 'pause'");
  SECTION("and takes effect then") {
    f.context.run_to_completion(f.jobs.finalize("job0"));
    CHECK(f.shared.calls == States{"commit"});
  }
  SECTION("and does not if it is cancelled") {
    f.act([&] { f.jobs.cancel("job0"); });
    f.turn();
    CHECK(f.shared.calls == States{"abort"});
  }
  SECTION("and does not if the last step fails") {
    f.shared.fail_prepare = true;
    f.context.run_to_completion(f.jobs.finalize("job0"));
    CHECK(f.shared.calls == States{"abort"});
  }
  CHECK(f.states.back() == "null");
  f.end();
}

TEST_CASE("a paused job rests where it can") {
  JobFixture f;
  f.start();
  f.turn();
  CHECK(f.error([&] { f.jobs.resume("job0"); }) == "Can't resume a job that was not paused");
  f.act([&] { f.jobs.pause("job0"); });
  CHECK(f.error([&] { f.jobs.pause("job0"); }) == "Job is already paused");
  f.turn();
  CHECK(f.states.back() == "paused");
  CHECK(f.error([&] { f.jobs.complete("job0"); }) ==
        "Job 'job0' in state 'paused' cannot accept command verb 'complete'");
  f.act([&] { f.jobs.resume("job0"); });
  f.shared.go.set();
  f.turn();
  CHECK(f.states.back() == "null");
  f.end();
}

TEST_CASE("a paused job can be cancelled") {
  JobFixture f;
  f.start({.id = "job0", .type = qapi::JobType::create, .auto_dismiss = false});
  f.turn();
  f.act([&] { f.jobs.pause("job0"); });
  f.turn();
  f.act([&] { f.jobs.cancel("job0"); });
  f.turn();
  CHECK(f.states.back() == "concluded");
  CHECK(f.jobs.query().at(0).error == "Operation canceled");
  f.end();
}

TEST_CASE("a ready job completes when it is told to") {
  JobFixture f;
  f.shared.ready = true;
  f.start();
  f.turn();
  CHECK(f.states.back() == "ready");
  f.act([&] { f.jobs.pause("job0"); });
  f.turn();
  CHECK(f.states.back() == "standby");
  f.act([&] { f.jobs.resume("job0"); });
  f.turn();
  f.act([&] { f.jobs.complete("job0"); });
  f.turn();
  CHECK(f.states.back() == "null");
  f.end();
}

TEST_CASE("shutting down cancels jobs and waits for them") {
  JobFixture f;
  f.start();
  f.turn();
  f.end();
  CHECK(f.shared.calls == States{"abort"});
  CHECK(f.jobs.query().empty());
}

TEST_CASE("job ids are checked") {
  JobFixture f;
  CHECK(f.error([&] { f.jobs.start(f.loop, {"0x", qapi::JobType::create}, nullptr); }) ==
        "Invalid job ID '0x'");
  CHECK(f.error([&] { f.jobs.cancel("none"); }) == "Job not found");
  f.end();
}

TEST_CASE("no state follows the last one, and none is left without a way out") {
  for (int from = 0; from < 10; ++from) {
    bool way_out = false;
    for (int to = 0; to < 11; ++to)
      way_out = way_out || job_may_become(static_cast<JobStatus>(from), static_cast<JobStatus>(to));
    CHECK(way_out);
    CHECK_FALSE(job_may_become(JobStatus::null, static_cast<JobStatus>(from)));
  }
  CHECK_FALSE(job_accepts(JobStatus::null, JobVerb::cancel));
}

}  // namespace
}  // namespace strata
