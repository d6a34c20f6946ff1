// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/check.h"

#include <cerrno>
#include <cstdio>

#include "block/base/error.h"
#include "block/graph/drain.h"
#include "block/qcow2/checker.h"

namespace strata::qcow2 {

Task<Status> Check::run() {
  Status status = co_await read_snapshots();
  if (status.ok()) status = co_await check_refcounts();
  if (status.ok()) status = co_await write_snapshots();
  result_.corruptions += of_snapshots_.corruptions;
  result_.corruptions_fixed += of_snapshots_.corruptions_fixed;
  result_.check_errors += of_snapshots_.check_errors;
  bool fixing = fix_.leaks || fix_.errors;
  if (!status.ok() || !fixing) co_return status;
  if (in_use_) co_return co_await fix_leaks_in_use();
  status = co_await image_.settle();
  bool sound = result_.corruptions == 0 && result_.check_errors == 0;
  if (status.ok() && sound) status = co_await image_.clear_broken_flags();
  co_return status;
}

Task<Result<CheckResult>> check_image(Image& image, CheckFix fix, CheckReport report) {
  Check check(image, fix, report);
  Status status = co_await check.run();
  if (!status.ok()) co_return status;
  co_return check.result();
}

namespace {

// Of turns that mend. Two are enough for nearly all there is.
constexpr unsigned kMostTurns = 8;

// What cannot be mended has been told of the first time.
CheckReport only_what_is_mended(const CheckReport& report) {
  return [&report](CheckSays what, const std::string& line) {
    bool mends = line.starts_with("Repairing") || line.starts_with("Rebuilding");
    if (report && (mends || what == CheckSays::failure)) report(what, line);
  };
}

void add_turn(CheckResult& all, const CheckResult& turn) noexcept {
  uint64_t corruptions_fixed = all.corruptions_fixed + turn.corruptions_fixed;
  uint64_t leaks_fixed = all.leaks_fixed + turn.leaks_fixed;
  all = turn;
  all.corruptions_fixed = corruptions_fixed;
  all.leaks_fixed = leaks_fixed;
}

}  // namespace

Task<Result<Repair>> repair_image(Image& image, CheckFix fix, CheckReport report) {
  Result<CheckResult> turn = co_await check_image(image, fix, report);
  if (!turn) co_return turn.status();
  Repair repair{.mended = *turn, .now = std::nullopt};
  for (unsigned turns = 1; turn->mended_something(); ++turns) {
    Result<CheckResult> look = co_await check_image(image, {}, nullptr);
    if (!look) co_return look.status();
    repair.now = *look;
    if (!fix.errors || look->found_nothing() || turns == kMostTurns) break;
    turn = co_await check_image(image, fix, only_what_is_mended(report));
    if (!turn) {
      ++repair.mended.check_errors;  // what is left of the image is told by who looks again
      break;
    }
    add_turn(repair.mended, *turn);
  }
  co_return repair;
}

// Once nobody is inside and all is written, what the disk says is whole. It stays like that while
// write back is locked out; what guests change meanwhile stays in memory.
Task<CheckResult> check_live_image(MainLoop& loop, Image& image, bool fix_leaks,
                                   CheckReport report) {
  Check check(image, {.leaks = fix_leaks}, report);
  check.image_is_in_use();
  Mutex::Lock frozen;
  Status status;
  {
    DrainedSection drained = co_await DrainedSection::begin(loop, {&image.node()});
    if (!image.node().io().inactive && image.node().is_writable()) status = co_await image.settle();
    if (status.ok()) frozen = co_await image.lock_write_back();
  }
  if (status.ok()) status = co_await check.run();
  if (!status.ok()) throw Error::from_errno(status.error_number(), "Check failed");
  co_return check.result();
}

Task<void> repair_dirty_image(Image& image) {
  CheckReport report = [](CheckSays, const std::string& line) {
    std::fprintf(stderr, "%s\n", line.c_str());
  };
  Result<CheckResult> result =
      co_await check_image(image, {.leaks = true, .errors = true}, std::move(report));
  if (!result) throw Error::from_errno(result.error_number(), "Could not repair dirty image");
  if (result->corruptions != 0 || result->check_errors != 0)
    throw Error::from_errno(EIO, "Could not repair dirty image");
}

}  // namespace strata::qcow2
