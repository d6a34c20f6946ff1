// SPDX-License-Identifier: GPL-2.0-or-later
//
// The driver's memory, which the kernel shows piece by piece to who asks for an address.
#pragma once

#include <string>

#include "block/export/vduse/device.h"
#include "block/virtio/guest_memory.h"

namespace strata::vduse {

// Any thread. The device outlives it.
class Iotlb final : public virtio::RegionSource {
 public:
  Iotlb(const Device& device, std::string export_id) noexcept
      : device_(device), export_id_(std::move(export_id)) {}

  std::optional<virtio::Region> find_region(uint64_t address) noexcept override;

 private:
  const Device& device_;
  const std::string export_id_;
};

}  // namespace strata::vduse
