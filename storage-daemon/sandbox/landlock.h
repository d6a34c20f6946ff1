// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <vector>

#include "storage-daemon/sandbox/paths.h"

namespace strata {

// From now on this thread, and all that it makes, can open only `paths`: to read, write, create and
// remove where they are writable, else to read; nothing to execute. Where the kernel can (since
// Linux 6.12), other processes get no signals, and no connections to their abstract sockets unless
// `abstract_sockets`. Needs no_new_privs. Throws Error, also where the kernel has no Landlock.
void restrict_files(const std::vector<AllowedPath>& paths, bool abstract_sockets);

}  // namespace strata
