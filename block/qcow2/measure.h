// SPDX-License-Identifier: GPL-2.0-or-later
//
// How large the file of an image will be.
#pragma once

#include <cstdint>
#include <vector>

#include "block/qcow2/format/header.h"

namespace strata::qcow2 {

// The file of an image of `size` bytes, a multiple of the cluster size, once all of it is
// allocated. Throws Error where the format cannot hold so much.
uint64_t full_file_size(const Geometry& geometry, uint64_t size);

struct MeasuredBitmap {
  uint64_t granularity = 0;  // bytes
  size_t name_length = 0;
};
// What persistent bitmaps of an image of `size` bytes take on top of it.
uint64_t bitmaps_file_size(const Geometry& geometry, uint64_t size,
                           const std::vector<MeasuredBitmap>& bitmaps);

}  // namespace strata::qcow2
