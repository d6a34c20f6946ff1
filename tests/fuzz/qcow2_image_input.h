// SPDX-License-Identifier: GPL-2.0-or-later
//
// The input of the fuzzer of whole images: a byte of choices, a row of steps, the image.
#pragma once

#include <cstddef>
#include <cstdint>

namespace strata::fuzz {

inline constexpr size_t kImageControlBytes = 16;
inline constexpr size_t kMostImageBytes = 1 << 20;

enum class ImageChoice : uint8_t {
  writable = 1,
  check_first = 2,
  mend = 4,
  with_backing = 8,
  bitmaps_ahead = 16,
};

// A step in the lower half of a byte, and in the upper half where, or how much.
inline constexpr unsigned kImageSteps = 16;
enum class ImageStep : uint8_t {
  read,
  map,
  write,
  write_compressed,
  zero,
  zero_and_unmap,
  discard,
  flush,
  create_snapshot,
  apply_snapshot,
  delete_snapshot,
  grow,
  shrink,
  change_bitmaps,
  amend,
  make_empty,
};

}  // namespace strata::fuzz
