// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/nbd/call.h"

#include <algorithm>

namespace strata::nbd_client {

bool Coverage::add(uint64_t offset, uint64_t length) {
  Range range{offset, offset + length};
  if (ranges_ == 0) {
    first_ = range;
    ranges_ = 1;
    return true;
  }
  if (ranges_ == 1 && range.begin == first_.end) {
    first_.end = range.end;
    return true;
  }
  return add_out_of_order(range);
}

bool Coverage::add_out_of_order(Range range) {
  if (others_.empty()) others_.push_back(first_);
  auto after = std::ranges::lower_bound(others_, range.begin, {}, &Range::begin);
  if (after != others_.end() && after->begin < range.end) return false;
  if (after != others_.begin() && std::prev(after)->end > range.begin) return false;
  bool joins_before = after != others_.begin() && std::prev(after)->end == range.begin;
  bool joins_after = after != others_.end() && after->begin == range.end;
  if (joins_before && joins_after) {
    std::prev(after)->end = after->end;
    others_.erase(after);
  } else if (joins_before) {
    std::prev(after)->end = range.end;
  } else if (joins_after) {
    after->begin = range.begin;
  } else {
    others_.insert(after, range);
  }
  ranges_ = others_.size();
  first_ = others_.front();
  if (ranges_ == 1) others_.clear();
  return true;
}

}  // namespace strata::nbd_client
