// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>

#include "block/base/unique_fd.h"

namespace strata {

// Holds the process's id; locked and there as long as this object is.
class PidFile {
 public:
  PidFile() noexcept = default;
  // Throws Error.
  explicit PidFile(const std::string& path);
  PidFile(PidFile&& other) noexcept = default;
  PidFile& operator=(PidFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~PidFile();

 private:
  std::string path_;  // absolute, as the process may change its directory
  UniqueFd fd_;
};

}  // namespace strata
