// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <chrono>
#include <cstdint>

namespace strata::tools {

// How far a long command has come. Shown as it goes where asked for, and once for each SIGUSR1
// where not. On a terminal the rate and the time left stand beside it.
class Progress {
 public:
  // Shown whenever `step` percent more are done, and at the end. From the beginning on a signal
  // does no harm; how much there is to do is told later.
  Progress(bool shown, bool quiet, double step);
  Progress(bool shown, bool quiet, uint64_t total) = delete;
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  bool is_shown() const noexcept { return shown_; }
  void set_total(uint64_t total) noexcept { total_ = total; }
  void advance(uint64_t by);
  // The same where qemu-img adds up shares of the whole, and what it rounds shows.
  void advance_by_share(uint64_t by);
  // So much of a total that becomes known on the way.
  void set(uint64_t done, uint64_t total);
  void finish();

 private:
  void show(double percent, bool anew);
  void print(double percent) const;

  bool shown_;
  bool on_terminal_;
  double step_;
  uint64_t total_ = 0;
  uint64_t done_ = 0;
  float percent_ = 0;  // the sum of shares
  double printed_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace strata::tools
