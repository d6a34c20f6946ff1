// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/base/throttle.h"

#include <algorithm>

#include "block/base/error.h"

namespace strata {
namespace {

bool mixes_total(const ThrottleConfig& config, ThrottleBucket total, ThrottleBucket read,
                 ThrottleBucket write) {
  auto mixed = [&](uint64_t ThrottleLimit::* member) {
    return config[total].*member != 0 && (config[read].*member != 0 || config[write].*member != 0);
  };
  return mixed(&ThrottleLimit::average) || mixed(&ThrottleLimit::burst);
}

void check_limit(const ThrottleLimit& limit) {
  constexpr uint64_t kMax = ThrottleConfig::kMaxValue;
  if (limit.average > kMax || limit.burst > kMax)
    throw Error("bps/iops/max values must be within [0, {}]", kMax);
  if (limit.burst_length == 0) throw Error("the burst length cannot be 0");
  if (limit.burst_length > 1 && limit.burst == 0)
    throw Error("burst length set without burst rate");
  if (limit.burst != 0 && limit.burst_length > kMax / limit.burst)
    throw Error("burst length too high for this burst rate");
  if (limit.burst != 0 && limit.average == 0)
    throw Error("bps_max/iops_max require corresponding bps/iops values");
  if (limit.burst != 0 && limit.burst < limit.average)
    throw Error("bps_max/iops_max cannot be lower than bps/iops");
}

}  // namespace

std::string_view to_string(ThrottleBucket bucket) noexcept {
  constexpr std::array<std::string_view, kThrottleBuckets> kNames{
      "bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write"};
  return kNames[static_cast<size_t>(bucket)];
}

bool ThrottleConfig::is_enabled() const noexcept {
  return std::ranges::any_of(limits, [](const ThrottleLimit& limit) { return limit.average != 0; });
}

void check_throttle_config(const ThrottleConfig& config) {
  using enum ThrottleBucket;
  if (mixes_total(config, bps_total, bps_read, bps_write) ||
      mixes_total(config, iops_total, iops_read, iops_write))
    throw Error("bps/iops/max total values and read/write values cannot be used at the same time");
  bool limits_operations = config[iops_total].average != 0 || config[iops_read].average != 0 ||
                           config[iops_write].average != 0;
  if (config.operation_size != 0 && !limits_operations)
    throw Error("iops size requires an iops value to be set");
  for (const ThrottleLimit& limit : config.limits) check_limit(limit);
}

}  // namespace strata
