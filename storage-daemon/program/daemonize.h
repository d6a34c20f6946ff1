// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/base/unique_fd.h"

namespace strata {

// Puts the process into the background. The parent waits until the child is ready or has failed,
// and ends with the status that tells.
class Daemonizer {
 public:
  // Returns in the child only. Before there are threads or event loops. Throws Error.
  void begin();
  // Everything is set up: leaves the terminal and the directory behind and lets the parent go.
  // `keep_stderr`: what it has to say still goes there. Throws Error.
  void ready(bool keep_stderr = false);

 private:
  UniqueFd pipe_;
};

}  // namespace strata
