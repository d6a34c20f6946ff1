// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <algorithm>
#include <string>

#include "block/base/bytes.h"

namespace strata::qcow2 {

// Names in an image end with their field, or before with a zero byte: so QEMU reads them.
inline std::string to_name(ConstBytes bytes) {
  auto end = std::find(bytes.begin(), bytes.end(), std::byte{0});
  return to_text(bytes.first(static_cast<size_t>(end - bytes.begin())));
}

}  // namespace strata::qcow2
