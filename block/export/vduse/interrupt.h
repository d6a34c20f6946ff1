// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <optional>

#include "block/aio/aio_context.h"
#include "block/coro/cancel.h"
#include "block/coro/scope.h"
#include "block/export/vduse/device.h"

namespace strata::vduse {

// Tells the driver that its queue has answers. The kernel takes no interrupt before it knows that
// the driver is ready, which it learns after us: until then it is tried again. Used in one context.
class Interrupt {
 public:
  Interrupt(AioContext& context, const Device& device, uint32_t queue) noexcept
      : context_(context), device_(device), queue_(queue) {}

  void raise() noexcept;
  // Tries no longer. To be awaited before its end.
  Task<void> stop();

 private:
  Task<void> repeat(CancelToken cancel);

  AioContext& context_;
  const Device& device_;
  const uint32_t queue_;
  std::optional<CancelSource> stop_;  // while it is tried again
  TaskScope scope_;
};

}  // namespace strata::vduse
