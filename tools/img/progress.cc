// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>

#include "tools/common/numbers.h"

namespace strata::tools {
namespace {

volatile std::sig_atomic_t report_wanted = 0;

void want_report(int) {
  report_wanted = 1;
}

}  // namespace

Progress::Progress(bool shown, bool quiet, double step)
    : shown_(shown && !quiet), on_terminal_(::isatty(STDOUT_FILENO) != 0), step_(step) {
  if (!shown_) std::signal(SIGUSR1, want_report);
  if (shown_) print(0);
}

Progress::~Progress() {
  if (shown_) std::fputs("\n", stdout);
}

void Progress::print(double percent) const {
  std::string rest;
  std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
  if (on_terminal_ && done_ != 0 && elapsed.count() > 0.5) {
    double rate = static_cast<double>(done_) / elapsed.count();
    auto left = static_cast<uint64_t>(static_cast<double>(total_ - done_) / rate);
    rest = fmt::format("  {}/s, {}:{:02} left ", human_size(static_cast<uint64_t>(rate)), left / 60,
                       left % 60);
  }
  fmt::print("    ({:3.2f}/100%){}\r", percent, rest);
  std::fflush(stdout);
}

// `anew`: it need not be more than before at the end.
void Progress::show(double percent, bool anew) {
  if (report_wanted) {
    report_wanted = 0;
    print(percent);
  } else if (shown_ &&
             (percent > printed_ + step_ || (percent == 100 && (anew || printed_ != 100)))) {
    printed_ = percent;
    print(percent);
  }
}

void Progress::advance(uint64_t by) {
  done_ = std::min(done_ + by, total_);
  show(total_ == 0 ? 100 : static_cast<double>(done_) * 100 / static_cast<double>(total_), false);
}

void Progress::advance_by_share(uint64_t by) {
  done_ = std::min(done_ + by, total_);
  float share = static_cast<float>(by) / static_cast<float>(total_) * 100;
  percent_ = std::min(percent_ + share, 100.0f);
  show(percent_, true);
}

void Progress::set(uint64_t done, uint64_t total) {
  if (static_cast<double>(done) * 100 < printed_ * static_cast<double>(total)) printed_ = 0;
  total_ = total;
  done_ = 0;
  advance(done);
}

void Progress::finish() {
  done_ = total_;
  if (shown_) print(100);
}

}  // namespace strata::tools
