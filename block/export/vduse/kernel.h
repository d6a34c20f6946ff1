// SPDX-License-Identifier: GPL-2.0-or-later
//
// The calls by which the kernel's VDUSE is reached, for tests to stand in. What is read from a
// device and written to it goes through its descriptor.
#pragma once

#include <string>

#include "block/base/result.h"
#include "block/base/unique_fd.h"

namespace strata::vduse {

class Kernel {
 public:
  virtual ~Kernel() = default;

  // As open(2), to read and write, non-blocking.
  virtual Result<UniqueFd> open(const std::string& path) noexcept = 0;
  // As ioctl(2). Any thread.
  virtual Result<int> control(int fd, unsigned long request, void* argument) noexcept = 0;

  // The one that this process runs on.
  static Kernel& real() noexcept;
};

}  // namespace strata::vduse
