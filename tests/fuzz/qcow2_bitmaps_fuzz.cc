// SPDX-License-Identifier: GPL-2.0-or-later
//
// A bitmap directory and a bitmap's table: nothing reads past its input, what is accepted keeps to
// the limits, and a directory that is written again is the same.
#include "block/qcow2/format/bitmaps.h"

#include "block/qcow2/format/entries.h"
#include "tests/fuzz/fuzz.h"

using namespace strata;
using namespace strata::qcow2;
using fuzz::require;

namespace {

void check_directory(ConstBytes bytes, uint32_t count, uint64_t disk_size,
                     const Geometry& geometry) {
  auto found = parse_bitmap_directory(bytes, count, disk_size, geometry);
  if (!found) return;
  require(found->size() == count);
  for (const BitmapEntry& entry : *found) {
    require(entry.table_size != 0 && entry.table_size <= kMaxBitmapTableEntries);
    require(entry.granularity_bits >= kMinGranularityBits &&
            entry.granularity_bits <= kMaxGranularityBits);
    require(!entry.name.empty() && entry.name.size() <= kMaxBackingName);
    require(geometry.is_cluster_aligned(entry.table_offset.value));
  }
  std::vector<std::byte> written = encode_bitmap_directory(*found);
  require(written.size() == bytes.size());
  auto again = parse_bitmap_directory(written, count, disk_size, geometry);
  require(again.ok() && *again == *found);
}

void check_table(ConstBytes bytes, const Geometry& geometry) {
  for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
    BitmapTableEntry entry{load_be<uint64_t>(bytes, at)};
    if (!entry.valid(geometry)) continue;
    require(geometry.is_cluster_aligned(entry.offset().value));
    require(!entry.all_ones() || entry.offset().value == 0);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  auto count = input.take<uint8_t>();
  auto shape = input.take<uint8_t>();
  auto disk_size = input.take<uint64_t>() >> 1;
  Geometry geometry(kMinClusterBits + shape % (kMaxClusterBits - kMinClusterBits + 1), 4, false);
  check_directory(input.rest(), count, disk_size, geometry);
  check_table(input.rest(), geometry);
  return 0;
}
