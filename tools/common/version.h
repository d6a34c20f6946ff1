// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

namespace strata::tools {

// The version of QEMU whose tools these stand in for, and our own.
inline constexpr char kQemuVersion[] = "10.2.50";
inline constexpr char kVersion[] = STRATA_VERSION;

}  // namespace strata::tools
