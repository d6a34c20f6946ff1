// SPDX-License-Identifier: GPL-2.0-or-later
//
// Getting at a host's file: opening it, and opening it again in another mode.
#pragma once

#include <string>

#include "block/base/unique_fd.h"

namespace strata {

class PassedFds;

enum class FileKind { regular, device };

struct OpenMode {
  bool writable = false;
  bool direct = false;
};

// Opens `name`, or the file of a descriptor: one of a set of `passed` ("/dev/fdset/N"; null: there
// are none), or one that the process was started with ("fd:N", "/dev/fdset/N"). The file must be of
// the kind that `driver` (for error texts) is for. Never creates it. Throws Error.
UniqueFd open_image_file(const std::string& name, FileKind kind, std::string_view driver,
                         OpenMode mode, const PassedFds* passed);

// One more descriptor of the file that `fd` stands for, even if `name` means another one by now;
// with an open file of its own, unless it is one of a set. Throws Error.
UniqueFd reopen_image_file(int fd, const std::string& name, OpenMode mode, const PassedFds* passed);

}  // namespace strata
