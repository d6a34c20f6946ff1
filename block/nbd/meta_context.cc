// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd/meta_context.h"

#include <algorithm>

namespace strata::nbd {

MetaQuery parse_meta_query(std::string_view query) noexcept {
  using Kind = MetaQuery::Kind;
  if (query == "base:") return {Kind::base, {}};
  if (query == kBaseAllocation) return {Kind::base_allocation, {}};
  if (query == "qemu:") return {Kind::qemu, {}};
  if (query == kAllocationDepth) return {Kind::allocation_depth, {}};
  if (query == kDirtyBitmapPrefix) return {Kind::dirty_bitmaps, {}};
  if (query.starts_with(kDirtyBitmapPrefix)) {
    return {Kind::dirty_bitmap, query.substr(kDirtyBitmapPrefix.size())};
  }
  return {};
}

void MetaSelection::apply(std::string_view query, const MetaOffer& offer, bool list) {
  MetaQuery parsed = parse_meta_query(query);
  switch (parsed.kind) {
    case MetaQuery::Kind::unknown:
      break;
    case MetaQuery::Kind::base:
      if (list) base_allocation_ = true;
      break;
    case MetaQuery::Kind::base_allocation:
      base_allocation_ = true;
      break;
    case MetaQuery::Kind::qemu:
      if (list && offer.allocation_depth) allocation_depth_ = true;
      [[fallthrough]];
    case MetaQuery::Kind::dirty_bitmaps:
      if (list) bitmaps_.assign(offer.bitmaps.size(), true);
      break;
    case MetaQuery::Kind::allocation_depth:
      if (offer.allocation_depth) allocation_depth_ = true;
      break;
    case MetaQuery::Kind::dirty_bitmap: {
      auto found = std::find(offer.bitmaps.begin(), offer.bitmaps.end(), parsed.bitmap);
      if (found != offer.bitmaps.end()) select_bitmap(found - offer.bitmaps.begin(), offer);
      break;
    }
  }
}

void MetaSelection::select_all(const MetaOffer& offer) {
  base_allocation_ = true;
  allocation_depth_ = offer.allocation_depth;
  bitmaps_.assign(offer.bitmaps.size(), true);
}

void MetaSelection::select_bitmap(std::size_t index, const MetaOffer& offer) {
  bitmaps_.resize(offer.bitmaps.size());
  bitmaps_[index] = true;
}

bool MetaSelection::contains(std::uint32_t id) const noexcept {
  if (id == kBaseAllocationId) return base_allocation_;
  if (id == kAllocationDepthId) return allocation_depth_;
  return bitmap(id - kFirstDirtyBitmapId);
}

std::uint32_t MetaSelection::count() const noexcept {
  auto bitmaps = std::count(bitmaps_.begin(), bitmaps_.end(), true);
  return static_cast<std::uint32_t>(bitmaps) + base_allocation_ + allocation_depth_;
}

}  // namespace strata::nbd
