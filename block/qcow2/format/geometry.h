// SPDX-License-Identifier: GPL-2.0-or-later
//
// Offsets, clusters and indexes are different types, and Geometry is the one place that turns one
// into another. Everybody else neither shifts nor masks.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>

namespace strata::qcow2 {

// A number of bytes from the start of something.
template <class Tag>
struct Offset {
  uint64_t value = 0;

  constexpr Offset() noexcept = default;
  constexpr explicit Offset(uint64_t bytes) noexcept : value(bytes) {}
  friend constexpr auto operator<=>(Offset, Offset) noexcept = default;
  friend constexpr Offset operator+(Offset a, uint64_t bytes) noexcept {
    return Offset(a.value + bytes);
  }
  friend constexpr uint64_t operator-(Offset a, Offset b) noexcept { return a.value - b.value; }
};

// A position in a sequence of equal things.
template <class Tag>
struct Index {
  uint64_t value = 0;

  constexpr Index() noexcept = default;
  constexpr explicit Index(uint64_t n) noexcept : value(n) {}
  friend constexpr auto operator<=>(Index, Index) noexcept = default;
  friend constexpr Index operator+(Index a, uint64_t n) noexcept { return Index(a.value + n); }
  friend constexpr uint64_t operator-(Index a, Index b) noexcept { return a.value - b.value; }
  constexpr Index& operator++() noexcept {
    ++value;
    return *this;
  }
};

using GuestOffset = Offset<struct GuestOffsetTag>;   // into the virtual disk
using HostOffset = Offset<struct HostOffsetTag>;     // into the image file (or its data file)
using GuestCluster = Index<struct GuestClusterTag>;  // of the virtual disk
using HostCluster = Index<struct HostClusterTag>;    // of the image file
using L1Index = Index<struct L1IndexTag>;            // into an L1 table
using L2Index = Index<struct L2IndexTag>;            // into one L2 table
using TableIndex = Index<struct RefcountTableTag>;   // into the refcount table
using BlockIndex = Index<struct RefcountBlockTag>;   // into one refcount block

inline constexpr unsigned kMinClusterBits = 9;
inline constexpr unsigned kMaxClusterBits = 21;
inline constexpr unsigned kMinExtendedClusterBits = 14;
inline constexpr unsigned kMaxRefcountOrder = 6;
inline constexpr unsigned kSubclusters = 32;
// Metadata can point below this only (56 bits).
inline constexpr uint64_t kMaxHostOffset = uint64_t{1} << 56;

// Implementation limits, QEMU's; images beyond them are refused.
inline constexpr uint64_t kMaxL1Bytes = 32 * 1024 * 1024;
inline constexpr uint64_t kMaxRefcountTableBytes = 8 * 1024 * 1024;
inline constexpr uint64_t kMaxSnapshots = 65536;
inline constexpr uint64_t kMaxSnapshotTableBytes = 1024 * kMaxSnapshots;
inline constexpr uint64_t kMaxSnapshotExtraData = 1024;
inline constexpr uint64_t kMaxBitmaps = 65535;
inline constexpr uint64_t kMaxBitmapTableEntries = 0x8000000;
inline constexpr uint64_t kMaxBitmapDirectoryBytes = kMaxBitmaps * 1024;
inline constexpr uint64_t kMaxBackingName = 1023;

class Geometry {
 public:
  constexpr Geometry() noexcept = default;
  // The arguments are within the limits above.
  constexpr Geometry(unsigned cluster_bits, unsigned refcount_order, bool extended_l2) noexcept
      : cluster_bits_(cluster_bits), refcount_order_(refcount_order), extended_(extended_l2) {}

  constexpr unsigned cluster_bits() const noexcept { return cluster_bits_; }
  constexpr uint64_t cluster_size() const noexcept { return uint64_t{1} << cluster_bits_; }
  constexpr uint64_t in_cluster(GuestOffset offset) const noexcept {
    return offset.value & (cluster_size() - 1);
  }
  constexpr bool is_cluster_aligned(uint64_t bytes) const noexcept {
    return (bytes & (cluster_size() - 1)) == 0;
  }
  constexpr uint64_t clusters_for(uint64_t bytes) const noexcept {
    return (bytes >> cluster_bits_) + ((bytes & (cluster_size() - 1)) != 0 ? 1 : 0);
  }
  constexpr uint64_t round_up(uint64_t bytes) const noexcept {
    return clusters_for(bytes) << cluster_bits_;
  }

  constexpr GuestCluster cluster_of(GuestOffset offset) const noexcept {
    return GuestCluster(offset.value >> cluster_bits_);
  }
  constexpr HostCluster cluster_of(HostOffset offset) const noexcept {
    return HostCluster(offset.value >> cluster_bits_);
  }
  constexpr GuestOffset offset_of(GuestCluster cluster) const noexcept {
    return GuestOffset(cluster.value << cluster_bits_);
  }
  constexpr HostOffset offset_of(HostCluster cluster) const noexcept {
    return HostOffset(cluster.value << cluster_bits_);
  }

  // --- L1 and L2 ---

  constexpr bool extended_l2() const noexcept { return extended_; }
  constexpr size_t l2_entry_size() const noexcept { return extended_ ? 16 : 8; }
  constexpr unsigned l2_bits() const noexcept { return cluster_bits_ - (extended_ ? 4 : 3); }
  constexpr uint64_t l2_entries() const noexcept { return uint64_t{1} << l2_bits(); }
  constexpr L1Index l1_index(GuestCluster cluster) const noexcept {
    return L1Index(cluster.value >> l2_bits());
  }
  constexpr L1Index l1_index(GuestOffset offset) const noexcept {
    return l1_index(cluster_of(offset));
  }
  constexpr L2Index l2_index(GuestCluster cluster) const noexcept {
    return L2Index(cluster.value & (l2_entries() - 1));
  }
  constexpr GuestCluster cluster_at(L1Index l1, L2Index l2) const noexcept {
    return GuestCluster((l1.value << l2_bits()) + l2.value);
  }
  // Guest bytes behind one L1 entry.
  constexpr uint64_t bytes_per_l2_table() const noexcept {
    return uint64_t{1} << (cluster_bits_ + l2_bits());
  }
  // Entries needed for `bytes` of guest data. `bytes` is below 2^63.
  constexpr uint64_t l1_entries_for(uint64_t bytes) const noexcept {
    unsigned shift = cluster_bits_ + l2_bits();
    return (bytes >> shift) + ((bytes & ((uint64_t{1} << shift) - 1)) != 0 ? 1 : 0);
  }

  // --- Subclusters (a cluster is its only one where entries are not extended) ---

  constexpr unsigned subclusters() const noexcept { return extended_ ? kSubclusters : 1; }
  constexpr uint64_t subcluster_size() const noexcept {
    return extended_ ? cluster_size() / kSubclusters : cluster_size();
  }
  constexpr unsigned subcluster_of(GuestOffset offset) const noexcept {
    return static_cast<unsigned>(in_cluster(offset) / subcluster_size());
  }

  // --- Refcounts ---

  constexpr unsigned refcount_order() const noexcept { return refcount_order_; }
  constexpr unsigned refcount_bits() const noexcept { return 1u << refcount_order_; }
  constexpr uint64_t max_refcount() const noexcept {
    return refcount_order_ == 6 ? UINT64_MAX : (uint64_t{1} << refcount_bits()) - 1;
  }
  constexpr unsigned refcount_block_bits() const noexcept {
    return cluster_bits_ + 3 - refcount_order_;
  }
  constexpr uint64_t refcount_block_entries() const noexcept {
    return uint64_t{1} << refcount_block_bits();
  }
  constexpr TableIndex table_index(HostCluster cluster) const noexcept {
    return TableIndex(cluster.value >> refcount_block_bits());
  }
  constexpr BlockIndex block_index(HostCluster cluster) const noexcept {
    return BlockIndex(cluster.value & (refcount_block_entries() - 1));
  }
  constexpr HostCluster first_cluster(TableIndex index) const noexcept {
    return HostCluster(index.value << refcount_block_bits());
  }

  // --- Compressed clusters: the descriptor's two fields ---

  constexpr unsigned compressed_offset_bits() const noexcept { return 62 - (cluster_bits_ - 8); }
  constexpr uint64_t compressed_offset_mask() const noexcept {
    return (uint64_t{1} << compressed_offset_bits()) - 1;
  }
  constexpr uint64_t compressed_sector_mask() const noexcept {
    return (uint64_t{1} << (cluster_bits_ - 8)) - 1;
  }

 private:
  unsigned cluster_bits_ = 16;
  unsigned refcount_order_ = 4;
  bool extended_ = false;
};

}  // namespace strata::qcow2
