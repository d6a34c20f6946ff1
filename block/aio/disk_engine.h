// SPDX-License-Identifier: GPL-2.0-or-later
//
// The ways to have the kernel read and write a disk, and the choice among them.
#pragma once

#include <optional>
#include <string_view>

namespace strata {

enum class DiskEngine { threads, native, io_uring };

std::string_view to_string(DiskEngine engine) noexcept;

// What this host allows: 0, or the errno with which the kernel refuses.
struct EngineSupport {
  int native = 0;
  int io_uring = 0;

  // Asks the kernel.
  static EngineSupport probe() noexcept;
};

// The engine that the user named, if it can be had; throws Error if not. The best that works where
// nothing was named. `direct`: the descriptor has O_DIRECT, which the engine native needs.
DiskEngine choose_engine(std::optional<DiskEngine> named, bool direct,
                         const EngineSupport& support);
// The same on this host, which is asked only about what the choice is between.
DiskEngine choose_engine(std::optional<DiskEngine> named, bool direct);

}  // namespace strata
