// SPDX-License-Identifier: GPL-2.0-or-later
//
// The entries of a refcount block: 2^order bits each, in sub-byte widths from the least significant
// bit up, else big-endian.
#pragma once

#include <cstdint>

#include "block/base/bytes.h"
#include "block/qcow2/format/geometry.h"

namespace strata::qcow2 {

inline uint64_t load_refcount(ConstBytes block, unsigned order, uint64_t index) noexcept {
  switch (order) {
    case 6:
      return load_be<uint64_t>(block, index * 8);
    case 5:
      return load_be<uint32_t>(block, index * 4);
    case 4:
      return load_be<uint16_t>(block, index * 2);
    case 3:
      return load_be<uint8_t>(block, index);
    default: {
      unsigned width = 1u << order;
      unsigned in_byte = 8 / width;
      auto byte = load_be<uint8_t>(block, index / in_byte);
      return byte >> (index % in_byte * width) & ((1u << width) - 1);
    }
  }
}

// `value` is at most what the width holds.
inline void store_refcount(Bytes block, unsigned order, uint64_t index, uint64_t value) noexcept {
  switch (order) {
    case 6:
      return store_be<uint64_t>(block, index * 8, value);
    case 5:
      return store_be<uint32_t>(block, index * 4, static_cast<uint32_t>(value));
    case 4:
      return store_be<uint16_t>(block, index * 2, static_cast<uint16_t>(value));
    case 3:
      return store_be<uint8_t>(block, index, static_cast<uint8_t>(value));
    default: {
      unsigned width = 1u << order;
      unsigned in_byte = 8 / width;
      unsigned shift = static_cast<unsigned>(index % in_byte) * width;
      unsigned mask = ((1u << width) - 1) << shift;
      auto byte = load_be<uint8_t>(block, index / in_byte);
      auto changed = static_cast<uint8_t>((byte & ~mask) | (static_cast<unsigned>(value) << shift));
      return store_be<uint8_t>(block, index / in_byte, changed);
    }
  }
}

}  // namespace strata::qcow2
