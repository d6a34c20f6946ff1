// SPDX-License-Identifier: GPL-2.0-or-later
//
// One entry of each table: L1, L2, refcount table, bitmap table. An entry is a value; it is read
// from and written to memory in big-endian order by whoever holds the table.
#pragma once

#include <cstdint>

#include "block/qcow2/format/geometry.h"

namespace strata::qcow2 {

inline constexpr uint64_t kCopiedFlag = uint64_t{1} << 63;
inline constexpr uint64_t kCompressedFlag = uint64_t{1} << 62;
inline constexpr uint64_t kZeroFlag = 1;
inline constexpr uint64_t kOffsetMask = 0x00fffffffffffe00;       // bits 9 to 55
inline constexpr uint64_t kTableOffsetMask = 0xfffffffffffffe00;  // bits 9 to 63
inline constexpr uint64_t kL1Reserved = 0x7f000000000001ff;
inline constexpr uint64_t kL2StandardReserved = 0x3f000000000001fe;

// Bits 9-55: where the L2 table is (0: none). Bit 63: its refcount is exactly one.
struct L1Entry {
  uint64_t raw = 0;

  constexpr L1Entry() noexcept = default;
  constexpr explicit L1Entry(uint64_t bits) noexcept : raw(bits) {}
  static constexpr L1Entry of(HostOffset table, bool copied) noexcept {
    return L1Entry(table.value | (copied ? kCopiedFlag : 0));
  }
  constexpr HostOffset offset() const noexcept { return HostOffset(raw & kOffsetMask); }
  constexpr bool copied() const noexcept { return (raw & kCopiedFlag) != 0; }
  constexpr bool has_reserved_bits() const noexcept { return (raw & kL1Reserved) != 0; }
  friend constexpr bool operator==(L1Entry, L1Entry) noexcept = default;
};

enum class ClusterKind : uint8_t { unallocated, zero_plain, zero_allocated, normal, compressed };

// What a read of one subcluster finds. Where entries are not extended, that of the whole cluster.
enum class SubclusterKind : uint8_t {
  unallocated,            // nothing here: the backing file decides
  unallocated_allocated,  // the same, but a host cluster is reserved
  zero_plain,
  zero_allocated,  // reads as zeroes, and a host cluster is reserved
  normal,
  compressed,
  invalid,
};

// Where a compressed cluster's bytes are: from `offset` to the end of the last of its sectors.
struct CompressedExtent {
  HostOffset offset;
  uint64_t bytes = 0;
  friend constexpr bool operator==(CompressedExtent, CompressedExtent) noexcept = default;
};

// An L2 entry: the cluster descriptor and, where entries are extended, the subcluster bitmap (bits
// 0-31: allocated, 32-63: reads as zeroes).
struct L2Entry {
  uint64_t raw = 0;
  uint64_t bitmap = 0;

  static constexpr uint64_t kAllAllocated = 0xffffffff;
  static constexpr uint64_t kAllZeroes = uint64_t{0xffffffff} << 32;

  static constexpr L2Entry data(HostOffset cluster, const Geometry& geometry) noexcept {
    return {cluster.value | kCopiedFlag, geometry.extended_l2() ? kAllAllocated : 0};
  }
  // Reads as zeroes; `cluster` stays reserved if it is not 0.
  static constexpr L2Entry zero(HostOffset cluster, bool copied,
                                const Geometry& geometry) noexcept {
    uint64_t descriptor = cluster.value | (copied ? kCopiedFlag : 0);
    if (geometry.extended_l2()) return {descriptor, kAllZeroes};
    return {descriptor | kZeroFlag, 0};
  }
  static constexpr L2Entry compressed(CompressedExtent extent, const Geometry& geometry) noexcept {
    uint64_t first = extent.offset.value / 512;
    uint64_t last = (extent.offset.value + extent.bytes - 1) / 512;
    return {kCompressedFlag | extent.offset.value |
                ((last - first) << geometry.compressed_offset_bits()),
            0};
  }

  constexpr bool is_compressed() const noexcept { return (raw & kCompressedFlag) != 0; }
  constexpr bool copied() const noexcept { return (raw & kCopiedFlag) != 0; }
  constexpr HostOffset offset() const noexcept { return HostOffset(raw & kOffsetMask); }
  constexpr bool has_reserved_bits() const noexcept {
    return !is_compressed() && (raw & kL2StandardReserved) != 0;
  }
  constexpr CompressedExtent extent(const Geometry& geometry) const noexcept {
    HostOffset at(raw & geometry.compressed_offset_mask() & (kMaxHostOffset - 1));
    uint64_t more = (raw >> geometry.compressed_offset_bits()) & geometry.compressed_sector_mask();
    return {at, (more + 1) * 512 - at.value % 512};
  }

  // `data_file`: offset 0 is a place like others there.
  constexpr ClusterKind kind(const Geometry& geometry, bool data_file) const noexcept {
    if (is_compressed()) return ClusterKind::compressed;
    bool placed = offset().value != 0 || (data_file && copied());
    if (!geometry.extended_l2() && (raw & kZeroFlag) != 0)
      return placed ? ClusterKind::zero_allocated : ClusterKind::zero_plain;
    return placed ? ClusterKind::normal : ClusterKind::unallocated;
  }
  constexpr SubclusterKind subcluster(unsigned index, const Geometry& geometry,
                                      bool data_file) const noexcept {
    ClusterKind whole = kind(geometry, data_file);
    if (!geometry.extended_l2() || whole == ClusterKind::compressed) {
      switch (whole) {
        case ClusterKind::unallocated:
          return SubclusterKind::unallocated;
        case ClusterKind::zero_plain:
          return SubclusterKind::zero_plain;
        case ClusterKind::zero_allocated:
          return SubclusterKind::zero_allocated;
        case ClusterKind::normal:
          return SubclusterKind::normal;
        case ClusterKind::compressed:
          return SubclusterKind::compressed;  // check complains of a bitmap, a reader need not
      }
    }
    bool allocated = (bitmap >> index & 1) != 0;
    bool zero = (bitmap >> (index + 32) & 1) != 0;
    if (allocated && zero) return SubclusterKind::invalid;
    if (whole == ClusterKind::normal) {
      if (allocated) return SubclusterKind::normal;
      return zero ? SubclusterKind::zero_allocated : SubclusterKind::unallocated_allocated;
    }
    if (allocated) return SubclusterKind::invalid;
    return zero ? SubclusterKind::zero_plain : SubclusterKind::unallocated;
  }

  friend constexpr bool operator==(const L2Entry&, const L2Entry&) noexcept = default;
};

// Bits 9-63: where the refcount block is (0: none, all its clusters are free).
struct RefcountTableEntry {
  uint64_t raw = 0;
  constexpr HostOffset offset() const noexcept { return HostOffset(raw & kTableOffsetMask); }
  constexpr bool has_reserved_bits() const noexcept { return (raw & ~kTableOffsetMask) != 0; }
};

// Bits 9-55: where a cluster of bitmap data is; if 0, bit 0 says whether all bits are set.
struct BitmapTableEntry {
  uint64_t raw = 0;
  constexpr HostOffset offset() const noexcept { return HostOffset(raw & kOffsetMask); }
  constexpr bool all_ones() const noexcept { return offset().value == 0 && (raw & 1) != 0; }
  constexpr bool valid(const Geometry& geometry) const noexcept {
    if ((raw & ~(kOffsetMask | 1)) != 0) return false;
    if (offset().value == 0) return true;
    return (raw & 1) == 0 && geometry.is_cluster_aligned(offset().value);
  }
};

}  // namespace strata::qcow2
