// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

namespace strata {

// From now on this thread, and all that it makes, is refused the system calls that run or steer
// other programs, or change the system; and those of io_uring, unless `io_uring`, since what a ring
// is asked to do no filter sees. Needs no_new_privs. Throws Error.
void restrict_system_calls(bool io_uring);

}  // namespace strata
