// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/aio/aio_context.h"

namespace strata {

// The right to change the graph and everything else of the control plane: whoever holds a MainLoop&
// runs in the main loop. Only main() (or a test) makes one, for the context it then runs; it is
// handed down by reference, and I/O functions are not given it.
class MainLoop {
 public:
  explicit MainLoop(AioContext& context) noexcept : context_(context) {}
  MainLoop(const MainLoop&) = delete;
  MainLoop& operator=(const MainLoop&) = delete;

  AioContext& context() const noexcept { return context_; }

 private:
  AioContext& context_;
};

}  // namespace strata
