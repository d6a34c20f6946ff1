// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/settings.h"

#include <algorithm>
#include <optional>

#include "block/base/error.h"
#include "block/base/math.h"
#include "qapi/runtime/scalars.h"

namespace strata::qcow2 {
namespace {

constexpr uint64_t kLeastSlices = 8;
constexpr uint64_t kLeastRefcountBlocks = 4;
constexpr int64_t kCleanSeconds = 600;

constexpr Guards kConstantGuards{Guard::main_header, Guard::active_l1, Guard::refcount_table,
                                 Guard::snapshot_table, Guard::bitmap_directory};
constexpr Guards kCachedGuards =
    kConstantGuards | Guards{Guard::active_l2, Guard::refcount_block, Guard::inactive_l1};
constexpr Guards kAllGuards = kCachedGuards | Guard::inactive_l2;

Guards guards_of(qapi::Qcow2OverlapCheckMode mode) noexcept {
  switch (mode) {
    case qapi::Qcow2OverlapCheckMode::none:
      return {};
    case qapi::Qcow2OverlapCheckMode::constant:
      return kConstantGuards;
    case qapi::Qcow2OverlapCheckMode::cached:
      return kCachedGuards;
    case qapi::Qcow2OverlapCheckMode::all:
      return kAllGuards;
  }
  return kCachedGuards;
}

Guards guards_of(const qapi::Qcow2OverlapCheckFlags& flags) noexcept {
  Guards guards = guards_of(flags.template_.value_or(qapi::Qcow2OverlapCheckMode::cached));
  auto adjust = [&](const std::optional<bool>& wanted, Guard guard) {
    if (wanted) guards = *wanted ? guards | guard : guards.without(guard);
  };
  adjust(flags.main_header, Guard::main_header);
  adjust(flags.active_l1, Guard::active_l1);
  adjust(flags.active_l2, Guard::active_l2);
  adjust(flags.refcount_table, Guard::refcount_table);
  adjust(flags.refcount_block, Guard::refcount_block);
  adjust(flags.snapshot_table, Guard::snapshot_table);
  adjust(flags.inactive_l1, Guard::inactive_l1);
  adjust(flags.inactive_l2, Guard::inactive_l2);
  adjust(flags.bitmap_directory, Guard::bitmap_directory);
  return guards;
}

Guards guards_of(const std::optional<qapi::Qcow2OverlapChecks>& checks) noexcept {
  if (!checks) return kCachedGuards;
  if (const auto* mode = std::get_if<qapi::Qcow2OverlapCheckMode>(&*checks))
    return guards_of(*mode);
  return guards_of(std::get<qapi::Qcow2OverlapCheckFlags>(*checks));
}

std::optional<uint64_t> size_option(const std::optional<int64_t>& value, const char* name) {
  if (!value) return std::nullopt;
  if (*value < 0) throw qapi::not_a_size(name, *value);
  return static_cast<uint64_t>(*value);
}

struct CacheSizes {
  uint64_t l2 = 0;
  uint64_t refcounts = 0;  // 0: as little as possible
};

// Of one size for both, refcounts get what the L2 tables of the whole disk leave over.
CacheSizes share_out(uint64_t both, uint64_t all_l2, std::optional<uint64_t> l2,
                     std::optional<uint64_t> refcounts, uint64_t least_refcounts) {
  if (l2 && refcounts)
    throw Error(
        "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
  if (l2 && *l2 > both) throw Error("l2-cache-size may not exceed cache-size");
  if (refcounts && *refcounts > both) throw Error("refcount-cache-size may not exceed cache-size");
  if (l2) {
    uint64_t used = std::min(*l2, all_l2);
    return {used, both - used};
  }
  if (refcounts) return {both - *refcounts, *refcounts};
  if (both >= all_l2 + least_refcounts) return {all_l2, both - all_l2};
  uint64_t rest = std::min(both, least_refcounts);
  return {both - rest, rest};
}

void set_cache_sizes(const qapi::BlockdevOptionsQcow2& options, const Header& header,
                     CacheBounds bounds, Settings& settings) {
  Geometry geometry = header.geometry();
  uint64_t cluster = geometry.cluster_size();
  uint64_t all = geometry.round_up(geometry.clusters_for(header.size) * geometry.l2_entry_size());
  std::optional<uint64_t> both = size_option(options.cache_size, "cache-size");
  std::optional<uint64_t> l2 = size_option(options.l2_cache_size, "l2-cache-size");
  std::optional<uint64_t> refcounts =
      size_option(options.refcount_cache_size, "refcount-cache-size");
  std::optional<uint64_t> entry = size_option(options.l2_cache_entry_size, "l2-cache-entry-size");
  if (!both && !l2) all = geometry.round_up(std::min(all, bounds.in_file));
  CacheSizes sizes{std::min(all, l2.value_or(bounds.most)), refcounts.value_or(0)};
  if (both) sizes = share_out(*both, all, l2, refcounts, kLeastRefcountBlocks * cluster);
  if (entry && (*entry < 512 || *entry > cluster || !is_power_of_two(*entry)))
    throw Error("L2 cache entry size must be a power of two between 512 and the cluster size ({})",
                cluster);
  if (sizes.l2 / entry.value_or(cluster) > INT32_MAX) throw Error("L2 cache size too big");
  if (sizes.refcounts / cluster > INT32_MAX) throw Error("Refcount cache size too big");
  // Where the cache does not hold them all, slices are small, so that a miss costs little.
  bool too_small = sizes.l2 < all;
  settings.l2_slice_bytes = entry.value_or(std::min<uint64_t>(cluster, too_small ? 4096 : 65536));
  uint64_t used = std::min(sizes.l2, all);
  uint64_t slices = (used + settings.l2_slice_bytes - 1) / settings.l2_slice_bytes;
  settings.l2_slices = std::max(kLeastSlices, align_up(slices, kLeastSlices));
  settings.compact_bytes = too_small ? sizes.l2 / 4 : 0;
  settings.refcount_blocks = std::max(kLeastRefcountBlocks, sizes.refcounts / cluster);
}

}  // namespace

Settings settings_of(const qapi::BlockdevOptionsQcow2& options, const Header& header,
                     CacheBounds bounds) {
  Settings settings;
  set_cache_sizes(options, header, bounds, settings);
  auto interval = static_cast<uint64_t>(options.cache_clean_interval.value_or(kCleanSeconds));
  if (interval > UINT32_MAX) throw Error("Cache clean interval too big");
  settings.clean_interval = std::chrono::seconds(interval);
  settings.lazy_refcounts =
      options.lazy_refcounts.value_or((header.compatible & kCompatibleLazyRefcounts) != 0);
  if (settings.lazy_refcounts && header.version < 3)
    throw Error("Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level");
  settings.guards = guards_of(options.overlap_check);
  settings.discard_request = options.pass_discard_request.value_or(true);
  settings.discard_snapshot = options.pass_discard_snapshot.value_or(true);
  settings.discard_other = options.pass_discard_other.value_or(false);
  settings.discard_no_unref = options.discard_no_unref.value_or(false);
  if (settings.discard_no_unref && header.version < 3)
    throw Error("discard-no-unref is only supported since qcow2 version 3");
  return settings;
}

}  // namespace strata::qcow2
