// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "block/base/error.h"
#include "block/base/unique_fd.h"

namespace strata::test {

// A file without a name, on a file system that has O_DIRECT where there is one.
inline UniqueFd scratch_file(bool direct = false) {
  for (const char* directory : {"/var/tmp", "/tmp", "."}) {
    UniqueFd fd(::open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC | (direct ? O_DIRECT : 0), 0600));
    if (fd) return fd;
  }
  throw Error::from_errno(errno, "Cannot make a scratch file");
}

}  // namespace strata::test
