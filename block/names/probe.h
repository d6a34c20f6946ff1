// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which format an image has, from its first bytes.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace strata {

// How many bytes of an image decide; fewer only where the image is shorter.
inline constexpr size_t kProbeBytes = 2048;

// The name of the format, whether its driver is built or not; "raw" where nothing is recognised.
std::string_view probe_format(std::span<const std::byte> header) noexcept;

}  // namespace strata
