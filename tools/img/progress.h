// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <chrono>
#include <cstdint>

namespace strata::tools {

// How far a long command has come. Shown as it goes where asked for, and once for each SIGUSR1
// where not. On a terminal the rate and the time left stand beside it.
class Progress {
 public:
  Progress(bool shown, bool quiet, uint64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void advance(uint64_t by);
  void finish();

 private:
  void print(double percent) const;

  bool shown_;
  bool on_terminal_;
  uint64_t total_;
  uint64_t done_ = 0;
  double printed_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace strata::tools
