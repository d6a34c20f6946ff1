// SPDX-License-Identifier: GPL-2.0-or-later
//
// Memory for coroutine frames: a free list per size and thread, so that a request in the steady
// state allocates nothing. A frame may be freed in another thread than its own; it then stays
// there.
#pragma once

#include <cstddef>

namespace strata {

void* allocate_frame(size_t size);
void free_frame(void* frame, size_t size) noexcept;

}  // namespace strata
