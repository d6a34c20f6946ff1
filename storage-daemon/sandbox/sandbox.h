// SPDX-License-Identifier: GPL-2.0-or-later
//
// What is left to a process whose parser of images has been taken over: what the options name.
#pragma once

#include <string>
#include <vector>

#include "block/base/error.h"
#include "storage-daemon/sandbox/paths.h"

namespace strata {

// Confines this process, for good: files (Landlock) to `paths` and what libraries read, system
// calls (seccomp) to those that a storage daemon has a use for, capabilities to those that opening
// files and sockets needs (`keep_user_change`: and becoming another user), and no program that it
// runs gets more rights, for it can run none. To be called before there are threads, which all
// inherit it. Throws Error; then the process is not to go on.
void enter_sandbox(const std::vector<AllowedPath>& paths, bool keep_user_change);

// Throws Error if there is no such user.
void check_user(const std::string& name);

// Becomes that user, with its groups and without any capability, in all threads. Throws Error.
void become_user(const std::string& name);

// The error of something that was refused, with the sandbox named as what may have been in the way.
Error explain_refusal(Error error);

}  // namespace strata
