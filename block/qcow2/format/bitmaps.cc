// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/format/bitmaps.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "block/qcow2/format/text.h"

namespace strata::qcow2 {
namespace {

constexpr size_t kFixedBytes = 24;
constexpr uint32_t kReservedFlags = ~(kBitmapInUse | kBitmapAuto | kBitmapExtraDataCompatible);

bool table_covers(const BitmapEntry& entry, uint64_t disk_size, const Geometry& geometry) {
  uint64_t granularity = uint64_t{1} << entry.granularity_bits;
  uint64_t bits = disk_size / granularity + (disk_size % granularity != 0 ? 1 : 0);
  uint64_t bytes = (bits + 7) / 8;
  return geometry.clusters_for(bytes) == entry.table_size;
}

bool acceptable(const BitmapEntry& entry, uint64_t disk_size, const Geometry& geometry) {
  bool fail = entry.table_size == 0 || entry.table_offset.value == 0 ||
              !geometry.is_cluster_aligned(entry.table_offset.value) ||
              entry.table_size > kMaxBitmapTableEntries ||
              entry.granularity_bits < kMinGranularityBits ||
              entry.granularity_bits > kMaxGranularityBits || (entry.flags & kReservedFlags) != 0 ||
              entry.name.empty() || entry.name.size() > kMaxBackingName ||
              entry.type != kBitmapTypeDirtyTracking;
  return !fail && (entry.in_use() || table_covers(entry, disk_size, geometry));
}

}  // namespace

Decoded<std::vector<BitmapEntry>> parse_bitmap_directory(ConstBytes bytes, uint32_t count,
                                                         uint64_t disk_size,
                                                         const Geometry& geometry) {
  const FormatError broken{EINVAL, "Broken bitmap directory"};
  std::vector<BitmapEntry> bitmaps;
  for (size_t at = 0; at < bytes.size();) {
    ConstBytes rest = bytes.subspan(at);
    if (rest.size() < kFixedBytes) return broken;
    if (bitmaps.size() == count)
      return FormatError{EINVAL, "More bitmaps found than specified in header extension"};
    BitmapEntry entry;
    entry.table_offset = HostOffset(load_be<uint64_t>(rest, 0));
    entry.table_size = load_be<uint32_t>(rest, 8);
    entry.flags = load_be<uint32_t>(rest, 12);
    entry.type = load_be<uint8_t>(rest, 16);
    entry.granularity_bits = load_be<uint8_t>(rest, 17);
    size_t name_size = load_be<uint16_t>(rest, 18);
    size_t extra_size = load_be<uint32_t>(rest, 20);
    size_t size = (kFixedBytes + extra_size + name_size + 7) / 8 * 8;
    if (size > rest.size()) return broken;
    if (extra_size != 0) return FormatError{EINVAL, "Bitmap extra data is not supported"};
    entry.name = to_text(rest.subspan(kFixedBytes, name_size));
    if (!acceptable(entry, disk_size, geometry))
      return FormatError{EINVAL, fmt::format("Bitmap '{}' doesn't satisfy the constraints",
                                             to_name(std::as_bytes(std::span(entry.name))))};
    bitmaps.push_back(std::move(entry));
    at += size;
  }
  if (bitmaps.size() != count)
    return FormatError{EINVAL, "Less bitmaps found than specified in header extension"};
  return bitmaps;
}

std::vector<std::byte> encode_bitmap_directory(const std::vector<BitmapEntry>& bitmaps) {
  std::vector<std::byte> out;
  for (const BitmapEntry& entry : bitmaps) {
    size_t start = out.size();
    size_t used = kFixedBytes + entry.extra_data.size() + entry.name.size();
    out.resize(start + (used + 7) / 8 * 8);
    Bytes bytes = Bytes(out).subspan(start);
    store_be<uint64_t>(bytes, 0, entry.table_offset.value);
    store_be<uint32_t>(bytes, 8, entry.table_size);
    store_be<uint32_t>(bytes, 12, entry.flags);
    store_be<uint8_t>(bytes, 16, entry.type);
    store_be<uint8_t>(bytes, 17, entry.granularity_bits);
    store_be<uint16_t>(bytes, 18, static_cast<uint16_t>(entry.name.size()));
    store_be<uint32_t>(bytes, 20, static_cast<uint32_t>(entry.extra_data.size()));
    auto at =
        std::copy(entry.extra_data.begin(), entry.extra_data.end(), bytes.begin() + kFixedBytes);
    ConstBytes name = std::as_bytes(std::span(entry.name));
    std::copy(name.begin(), name.end(), at);
  }
  return out;
}

}  // namespace strata::qcow2
