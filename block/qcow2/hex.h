// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>

namespace strata::qcow2 {

// As QEMU's texts have it: no 0x before a zero.
inline std::string hex(uint64_t value) {
  return value == 0 ? "0" : fmt::format("{:#x}", value);
}

}  // namespace strata::qcow2
