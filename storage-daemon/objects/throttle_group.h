// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "block/base/throttle.h"
#include "qapi/types_block_core.h"
#include "qapi/types_qom.h"
#include "storage-daemon/objects/object.h"

namespace strata {

// Limits that several throttle filters share.
class ThrottleGroupObject final : public UserObject {
 public:
  // Throws Error.
  ThrottleGroupObject(std::string id, const qapi::ThrottleGroupProperties& options);

  const ThrottleConfig& config() const noexcept { return config_; }
  // Members that are absent keep their values. Throws Error, with nothing changed.
  void set_limits(const qapi::ThrottleLimits& limits);

  std::span<const Property> properties() const noexcept override { return property_table(); }
  static std::span<const Property> property_table() noexcept;

 private:
  ThrottleConfig config_;
};

}  // namespace strata
