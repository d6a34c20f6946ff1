// SPDX-License-Identifier: GPL-2.0-or-later
//
// How fast requests may come: the configuration of six token buckets.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace strata {

enum class ThrottleBucket : uint8_t {
  bps_total,
  bps_read,
  bps_write,
  iops_total,
  iops_read,
  iops_write,
};
inline constexpr size_t kThrottleBuckets = 6;

// Of a bucket: "bps-total" and so on.
std::string_view to_string(ThrottleBucket bucket) noexcept;

struct ThrottleLimit {
  uint64_t average = 0;       // units a second; 0: no limit
  uint64_t burst = 0;         // units a second during a burst; 0: no bursts above the average
  uint32_t burst_length = 1;  // seconds that a burst may last
  friend bool operator==(const ThrottleLimit&, const ThrottleLimit&) = default;
};

struct ThrottleConfig {
  static constexpr uint64_t kMaxValue = 1'000'000'000'000'000;

  std::array<ThrottleLimit, kThrottleBuckets> limits;
  // A request counts as one operation for each so many bytes begun; 0: whatever its size, as one.
  uint64_t operation_size = 0;

  ThrottleLimit& operator[](ThrottleBucket bucket) noexcept {
    return limits[static_cast<size_t>(bucket)];
  }
  const ThrottleLimit& operator[](ThrottleBucket bucket) const noexcept {
    return limits[static_cast<size_t>(bucket)];
  }
  bool is_enabled() const noexcept;
  friend bool operator==(const ThrottleConfig&, const ThrottleConfig&) = default;
};

// Throws Error, with QEMU's text, for limits that contradict each other.
void check_throttle_config(const ThrottleConfig& config);

}  // namespace strata
