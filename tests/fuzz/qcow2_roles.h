// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which cluster of an image is what. Refcounts may agree with all that refers to a cluster that is
// an L1 table and somebody's data; but whoever changes the one changes the other.
#pragma once

#include <algorithm>
#include <map>
#include <vector>

#include "block/qcow2/format/bitmaps.h"
#include "block/qcow2/format/entries.h"
#include "block/qcow2/format/header.h"
#include "block/qcow2/format/snapshots.h"

namespace strata::fuzz {

class Roles {
 public:
  // An image whose check finds nothing.
  explicit Roles(ConstBytes image) : image_(image) {
    auto header = qcow2::parse_header(image);
    if (!header) return;
    header_ = *header;
    geometry_ = header_.geometry();
    claim(0, geometry_.cluster_size(), Role::alone);
    claim_refcounts();
    walk_l1(header_.l1_table_offset, header_.l1_size);
    claim_snapshots();
    claim_bitmaps();
  }

  // Some cluster is two things at once.
  bool entangled() const noexcept { return entangled_; }

 private:
  enum class Role : uint8_t { alone, l2, data };  // what several may refer to, and what not

  void claim(uint64_t offset, uint64_t bytes, Role role) {
    if (bytes == 0) return;
    for (uint64_t at = offset >> geometry_.cluster_bits();
         at <= (offset + bytes - 1) >> geometry_.cluster_bits(); ++at) {
      auto [found, fresh] = roles_.emplace(at, role);
      entangled_ = entangled_ || (!fresh && (role == Role::alone || found->second != role));
    }
  }
  // Behind the end of the file there are zeroes.
  uint64_t word(uint64_t offset) const {
    return offset + 8 <= image_.size() ? load_be<uint64_t>(image_, offset) : 0;
  }
  template <class Function>
  void each_entry(uint64_t table, uint64_t entries, Function function) {
    uint64_t inside = (image_.size() - std::min<uint64_t>(image_.size(), table)) / 8;
    for (uint64_t i = 0; i < std::min(entries, inside); ++i) function(table + i * 8);
  }

  void claim_refcounts() {
    uint64_t bytes = header_.refcount_table_clusters * geometry_.cluster_size();
    claim(header_.refcount_table_offset, bytes, Role::alone);
    each_entry(header_.refcount_table_offset, bytes / 8, [&](uint64_t at) {
      if (word(at) != 0) claim(word(at), geometry_.cluster_size(), Role::alone);
    });
  }

  void walk_l1(uint64_t table, uint64_t entries) {
    claim(table, entries * 8, Role::alone);
    each_entry(table, entries, [&](uint64_t at) {
      uint64_t l2 = qcow2::L1Entry(word(at)).offset().value;
      if (l2 == 0) return;
      bool known = roles_.contains(l2 >> geometry_.cluster_bits());
      claim(l2, geometry_.cluster_size(), Role::l2);
      if (!known) walk_l2(l2);
    });
  }

  void walk_l2(uint64_t table) {
    if (header_.has(qcow2::kIncompatibleDataFile)) return;
    uint64_t words = geometry_.l2_entry_size() / 8;
    for (uint64_t i = 0; i < geometry_.l2_entries(); ++i) {
      qcow2::L2Entry entry{word(table + i * words * 8), 0};
      if (entry.is_compressed()) {
        qcow2::CompressedExtent extent = entry.extent(geometry_);
        claim(extent.offset.value, extent.bytes, Role::data);
      } else if (entry.offset().value != 0) {
        claim(entry.offset().value, geometry_.cluster_size(), Role::data);
      }
    }
  }

  void claim_snapshots() {
    uint64_t at = header_.snapshots_offset;
    for (uint64_t i = 0; i < header_.nb_snapshots && at < image_.size(); ++i) {
      auto entry = qcow2::parse_snapshot(image_.subspan(at), header_.size);
      if (!entry) return;
      walk_l1(entry->snapshot.l1_offset.value, entry->snapshot.l1_size);
      at += entry->bytes;
    }
    claim(header_.snapshots_offset, at - header_.snapshots_offset, Role::alone);
  }

  void claim_bitmaps() {
    std::vector<std::byte> cluster(geometry_.cluster_size());
    std::copy_n(image_.begin(), std::min(image_.size(), cluster.size()), cluster.begin());
    auto extensions = qcow2::parse_extensions(cluster, header_);
    if (!extensions || !extensions->bitmaps) return;
    const qcow2::BitmapsExtension& bitmaps = *extensions->bitmaps;
    uint64_t at = bitmaps.directory_offset.value;
    claim(at, bitmaps.directory_size, Role::alone);
    if (at + bitmaps.directory_size > image_.size()) return;
    auto entries = qcow2::parse_bitmap_directory(image_.subspan(at, bitmaps.directory_size),
                                                 bitmaps.count, header_.size, geometry_);
    if (!entries) return;
    for (const qcow2::BitmapEntry& entry : *entries) {
      claim(entry.table_offset.value, uint64_t{entry.table_size} * 8, Role::alone);
      each_entry(entry.table_offset.value, entry.table_size, [&](uint64_t place) {
        uint64_t bits = qcow2::BitmapTableEntry{word(place)}.offset().value;
        if (bits != 0) claim(bits, geometry_.cluster_size(), Role::alone);
      });
    }
  }

  ConstBytes image_;
  qcow2::Header header_;
  qcow2::Geometry geometry_;
  std::map<uint64_t, Role> roles_;
  bool entangled_ = false;
};

}  // namespace strata::fuzz
