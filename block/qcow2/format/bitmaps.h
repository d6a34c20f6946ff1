// SPDX-License-Identifier: GPL-2.0-or-later
//
// The bitmap directory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "block/base/bytes.h"
#include "block/qcow2/format/geometry.h"

namespace strata::qcow2 {

inline constexpr uint32_t kBitmapInUse = 1 << 0;
inline constexpr uint32_t kBitmapAuto = 1 << 1;
inline constexpr uint32_t kBitmapExtraDataCompatible = 1 << 2;
inline constexpr uint8_t kBitmapTypeDirtyTracking = 1;
inline constexpr unsigned kMinGranularityBits = 9;
inline constexpr unsigned kMaxGranularityBits = 31;

struct BitmapEntry {
  HostOffset table_offset;
  uint32_t table_size = 0;  // entries
  uint32_t flags = 0;
  uint8_t type = kBitmapTypeDirtyTracking;
  uint8_t granularity_bits = 16;
  std::vector<std::byte> extra_data;
  std::string name;

  bool in_use() const noexcept { return (flags & kBitmapInUse) != 0; }
  bool automatic() const noexcept { return (flags & kBitmapAuto) != 0; }
  friend bool operator==(const BitmapEntry&, const BitmapEntry&) = default;
};

// All `count` entries of a directory, each within the limits that this code has. `disk_size`: in
// bytes; a bitmap's table must have a cluster of data for all of it, unless it is in use (the disk
// may have changed its size meanwhile).
Decoded<std::vector<BitmapEntry>> parse_bitmap_directory(ConstBytes bytes, uint32_t count,
                                                         uint64_t disk_size,
                                                         const Geometry& geometry);

std::vector<std::byte> encode_bitmap_directory(const std::vector<BitmapEntry>& bitmaps);

}  // namespace strata::qcow2
