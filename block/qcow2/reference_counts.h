// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

namespace strata::qcow2 {

// How often each cluster of a file is referred to: one byte a cluster, and nothing for stretches
// of the file that nothing refers to, be they long or short.
class ReferenceCounts {
 public:
  static constexpr uint64_t kClustersPerLeaf = 128;
  static constexpr uint64_t kLeavesPerPage = 64;
  static constexpr uint64_t kClustersPerPage = kClustersPerLeaf * kLeavesPerPage;

  // Forgets everything. Counts go up to `max`.
  void reset(uint64_t clusters, uint64_t max) {
    pages_.clear();
    large_.clear();
    max_ = max;
    resize(clusters);
  }
  void resize(uint64_t clusters) {
    clusters_ = clusters;
    pages_.resize((clusters + kClustersPerPage - 1) / kClustersPerPage);
  }
  uint64_t size() const noexcept { return clusters_; }

  uint64_t get(uint64_t cluster) const noexcept {
    const Leaf* leaf = leaf_of(cluster);
    if (leaf == nullptr) return 0;
    uint8_t count = (*leaf)[cluster % kClustersPerLeaf];
    return count == kLarge ? large_.find(cluster)->second : count;
  }
  void set(uint64_t cluster, uint64_t count) {
    if (count == 0 && leaf_of(cluster) == nullptr) return;
    uint8_t& place = make_leaf(cluster)[cluster % kClustersPerLeaf];
    if (count >= kLarge) {
      large_[cluster] = count;
      place = kLarge;
      return;
    }
    if (place == kLarge) large_.erase(cluster);
    place = static_cast<uint8_t>(count);
  }
  // False: that is more than the counts of the image can say; it stays at the most they can.
  bool add(uint64_t cluster, uint64_t times) {
    uint64_t count = get(cluster);
    bool fits = times <= max_ - count;
    set(cluster, fits ? count + times : max_);
    return fits;
  }
  // The first cluster at or behind `from`, and before `end`, that may have a count; else `end`.
  uint64_t next_used(uint64_t from, uint64_t end) const noexcept {
    while (from < end && leaf_of(from) == nullptr) {
      uint64_t step =
          pages_[from / kClustersPerPage] == nullptr ? kClustersPerPage : kClustersPerLeaf;
      from = (from / step + 1) * step;
    }
    return std::min(from, end);
  }
  bool any(uint64_t from, uint64_t end) const noexcept {
    for (from = next_used(from, end); from < end; from = next_used(from + 1, end)) {
      if (get(from) != 0) return true;
    }
    return false;
  }

 private:
  static constexpr uint8_t kLarge = UINT8_MAX;
  using Leaf = std::array<uint8_t, kClustersPerLeaf>;
  using Page = std::array<std::unique_ptr<Leaf>, kLeavesPerPage>;

  const Leaf* leaf_of(uint64_t cluster) const noexcept {
    const Page* page = pages_[cluster / kClustersPerPage].get();
    return page == nullptr ? nullptr : (*page)[cluster / kClustersPerLeaf % kLeavesPerPage].get();
  }
  Leaf& make_leaf(uint64_t cluster) {
    std::unique_ptr<Page>& page = pages_[cluster / kClustersPerPage];
    if (page == nullptr) page = std::make_unique<Page>();
    std::unique_ptr<Leaf>& leaf = (*page)[cluster / kClustersPerLeaf % kLeavesPerPage];
    if (leaf == nullptr) leaf = std::make_unique<Leaf>();
    return *leaf;
  }

  uint64_t clusters_ = 0;
  uint64_t max_ = UINT64_MAX;
  std::vector<std::unique_ptr<Page>> pages_;
  std::unordered_map<uint64_t, uint64_t> large_;  // counts that do not fit
};

}  // namespace strata::qcow2
