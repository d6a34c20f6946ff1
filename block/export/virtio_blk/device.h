// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a virtio block device is like, through whichever door it is reached.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace strata::virtio_blk {

// What every queue of an export has in common. Does not change.
struct DeviceTraits {
  uint32_t block_size = 512;  // logical, bytes
  bool writable = false;
  std::string serial;
};

constexpr uint64_t bit(unsigned number) noexcept {
  return uint64_t{1} << number;
}

// The features of device and rings that every door can offer.
uint64_t common_features(bool writable, size_t queues) noexcept;

// The option logical-block-size of the export `id`. Throws Error.
uint32_t checked_block_size(const std::string& id, uint64_t size);
// The option num-queues. Throws Error.
uint16_t checked_queues(uint16_t queues);

}  // namespace strata::virtio_blk
