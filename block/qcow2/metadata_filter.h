// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <memory>

#include "block/qcow2/format/geometry.h"

namespace strata::qcow2 {

// Tells without a lock that a cluster holds no metadata: never wrongly, and nearly always when it
// is so. Clusters are only added; one that holds metadata no more costs a closer look, nothing
// else.
class MetadataFilter {
 public:
  // For about so many clusters of metadata. Nobody uses the filter meanwhile.
  void reset(uint64_t clusters) {
    uint64_t bits = std::clamp<uint64_t>(std::bit_ceil(clusters * 16), 1 << 12, 1 << 23);
    words_ = std::make_unique<std::atomic<uint64_t>[]>(bits / 64);
    mask_ = bits - 1;
  }
  void add(HostCluster cluster) noexcept {
    uint64_t bit = hash(cluster) & mask_;
    words_[bit / 64].fetch_or(uint64_t{1} << bit % 64, std::memory_order_release);
  }
  bool may_hold(HostCluster cluster) const noexcept {
    uint64_t bit = hash(cluster) & mask_;
    return (words_[bit / 64].load(std::memory_order_acquire) >> bit % 64 & 1) != 0;
  }

 private:
  static uint64_t hash(HostCluster cluster) noexcept {
    return cluster.value * 0x9e3779b97f4a7c15 >> 32;
  }

  std::unique_ptr<std::atomic<uint64_t>[]> words_;
  uint64_t mask_ = 0;
};

}  // namespace strata::qcow2
