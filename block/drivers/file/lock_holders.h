// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>

namespace strata {

// Names the other processes that hold a lock on `byte` of the open file `fd`, for people: "The lock
// is held by process 1234 (qemu-img).\n", or nothing where there are none to be found. The kernel
// does not say to whom an OFD lock belongs, so this looks through /proc; not for the data path.
std::string describe_lock_holders(int fd, long byte);

}  // namespace strata
