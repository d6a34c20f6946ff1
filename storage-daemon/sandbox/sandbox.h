// SPDX-License-Identifier: GPL-2.0-or-later
//
// What is left to a process whose parser of images has been taken over: what the options name.
#pragma once

#include <string>
#include <vector>

#include "block/base/error.h"
#include "storage-daemon/sandbox/paths.h"

namespace strata {

struct SandboxNeeds {
  std::vector<AllowedPath> paths;
  bool user_change = false;       // becoming another user
  bool abstract_sockets = false;  // connecting to them
  bool io_uring = false;
};

// Confines this process, for good: files (Landlock) to what it needs and what libraries read,
// system calls (seccomp) to those that a storage daemon has a use for, capabilities to those that
// opening files and sockets needs, and no program that it runs gets more rights, for it can run
// none. To be called before there are threads, which all inherit it. Throws Error; then the process
// is not to go on.
void enter_sandbox(const SandboxNeeds& needs);

// Throws Error if there is no such user.
void check_user(const std::string& name);

// Becomes that user, with its groups and without any capability, in all threads. Throws Error.
void become_user(const std::string& name);

// The error of something that was refused, with the sandbox named as what may have been in the way.
Error explain_refusal(Error error);

}  // namespace strata
