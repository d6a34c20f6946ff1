// SPDX-License-Identifier: GPL-2.0-or-later
//
// Metadata contexts: their names, what a query selects, and the ids they get on a connection.
//
// Contexts: base:allocation (kStateHole, kStateZero), qemu:allocation-depth (the depth as a number)
// and qemu:dirty-bitmap:NAME (kStateDirty). Queries for LIST also know the wildcards "base:",
// "qemu:" and "qemu:dirty-bitmap:"; a namespace or leaf that is not known selects nothing and is no
// error.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace strata::nbd {

inline constexpr std::string_view kBaseAllocation = "base:allocation";
inline constexpr std::string_view kAllocationDepth = "qemu:allocation-depth";
inline constexpr std::string_view kDirtyBitmapPrefix = "qemu:dirty-bitmap:";

inline constexpr std::uint32_t kBaseAllocationId = 0;
inline constexpr std::uint32_t kAllocationDepthId = 1;
inline constexpr std::uint32_t kFirstDirtyBitmapId = 2;

struct MetaQuery {
  enum class Kind {
    unknown,
    base,  // every context of the namespace
    base_allocation,
    qemu,  // every context of the namespace
    allocation_depth,
    dirty_bitmaps,  // all of them
    dirty_bitmap,
  };
  Kind kind = Kind::unknown;
  std::string_view bitmap;  // dirty_bitmap only; a view into the query
};
MetaQuery parse_meta_query(std::string_view query) noexcept;

// What an export has to offer. The names of bitmaps give their ids: kFirstDirtyBitmapId + index.
struct MetaOffer {
  bool allocation_depth = false;
  std::span<const std::string> bitmaps;
};

// A set of contexts of one export.
class MetaSelection {
 public:
  // Wildcards select only where `list` is set: SET_META_CONTEXT ignores them, as the protocol
  // wants.
  void apply(std::string_view query, const MetaOffer& offer, bool list);
  void select_all(const MetaOffer& offer);
  void clear() noexcept { *this = MetaSelection(); }

  bool base_allocation() const noexcept { return base_allocation_; }
  bool allocation_depth() const noexcept { return allocation_depth_; }
  // Of the bitmap with this index in the offer.
  bool bitmap(std::size_t index) const noexcept {
    return index < bitmaps_.size() && bitmaps_[index];
  }
  bool contains(std::uint32_t id) const noexcept;
  std::uint32_t count() const noexcept;

 private:
  void select_bitmap(std::size_t index, const MetaOffer& offer);

  bool base_allocation_ = false;
  bool allocation_depth_ = false;
  std::vector<bool> bitmaps_;
};

}  // namespace strata::nbd
