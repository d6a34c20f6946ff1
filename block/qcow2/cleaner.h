// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/aio/aio_context.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {

// Gives back, once in a while, the memory of cached metadata that nobody uses. Lives and dies in
// the context whose timer it is; requests may come in any other.
class Cleaner final : TimerHeap::Timer {
 public:
  // Does nothing where the interval is 0.
  Cleaner(AioContext& context, Image& image, std::chrono::milliseconds interval)
      : context_(context), image_(image), interval_(interval) {
    arm();
  }
  ~Cleaner() {
    if (is_armed()) context_.timers().disarm(*this);
  }

 private:
  void arm() {
    if (interval_.count() != 0) context_.timers().arm(*this, context_.now() + interval_);
  }
  void expired() noexcept override {
    image_.clean_caches();
    arm();
  }

  AioContext& context_;
  Image& image_;
  std::chrono::milliseconds interval_;
};

}  // namespace strata::qcow2
