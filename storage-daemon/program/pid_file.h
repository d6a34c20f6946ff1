// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>

#include "block/base/unique_fd.h"

namespace strata {

// Holds the process's id; locked as long as this object is there, and then removed.
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
  // It stays behind.
  void keep() noexcept { path_.clear(); }

 private:
  std::string path_;  // absolute, as the process may change its directory
  UniqueFd fd_;
};

}  // namespace strata
