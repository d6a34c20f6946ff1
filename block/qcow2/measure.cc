// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/measure.h"

#include "block/base/error.h"
#include "block/base/math.h"

namespace strata::qcow2 {
namespace {

constexpr uint64_t kEntryBytes = 8;  // of L1, refcount and bitmap tables
constexpr uint64_t kBitmapEntryBytes = 24;

uint64_t divide_up(uint64_t value, uint64_t by) noexcept {
  return value / by + (value % by != 0 ? 1 : 0);
}

// Blocks and table for `clusters` clusters and for themselves.
uint64_t refcount_bytes(const Geometry& geometry, uint64_t clusters) noexcept {
  uint64_t in_block = (geometry.cluster_size() * 8) >> geometry.refcount_order();
  uint64_t in_table_cluster = geometry.cluster_size() / kEntryBytes;
  uint64_t own = 0;
  for (;;) {
    uint64_t blocks = divide_up(clusters + own, in_block);
    uint64_t all = blocks + divide_up(blocks, in_table_cluster);
    if (all == own) return own * geometry.cluster_size();
    own = all;
  }
}

}  // namespace

uint64_t full_file_size(const Geometry& geometry, uint64_t size) {
  uint64_t cluster = geometry.cluster_size();
  uint64_t in_table = cluster / geometry.l2_entry_size();
  uint64_t tables = divide_up(size / cluster, in_table);
  if (tables * kEntryBytes > kMaxL1Bytes)
    throw Error("The image size is too large (try using a larger cluster size)");
  uint64_t l1_bytes = align_up(tables * kEntryBytes, cluster);
  uint64_t metadata = cluster + tables * cluster + l1_bytes;
  metadata += refcount_bytes(geometry, (metadata + size) / cluster);
  return metadata + size;
}

uint64_t bitmaps_file_size(const Geometry& geometry, uint64_t size,
                           const std::vector<MeasuredBitmap>& bitmaps) {
  uint64_t cluster = geometry.cluster_size();
  uint64_t bytes = 0;
  uint64_t directory = 0;
  for (const MeasuredBitmap& bitmap : bitmaps) {
    uint64_t clusters = divide_up(divide_up(divide_up(size, bitmap.granularity), 8), cluster);
    bytes += clusters * cluster + align_up(clusters * kEntryBytes, cluster);
    directory += align_up(kBitmapEntryBytes + bitmap.name_length, 8);
  }
  return bytes + align_up(directory, cluster);
}

}  // namespace strata::qcow2
