// SPDX-License-Identifier: GPL-2.0-or-later
//
// Requests of a virtio block device, read from an element's memory; and its configuration.
#pragma once

#include <linux/virtio_blk.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "block/base/io_vector.h"
#include "block/virtio/ring.h"

namespace strata::virtio {

inline constexpr uint64_t kBlkSector = 512;
// Of one discard or write-zeroes request, as the configuration says.
inline constexpr uint32_t kMostDiscardSectors = 32768;

enum class BlkCommand : uint8_t {
  read,
  write,
  flush,
  get_id,
  discard,
  write_zeroes,
  unsupported,
};

// What a device is like, for the checks.
struct BlkLimits {
  uint64_t bytes = 0;       // length of the disk
  uint32_t block_size = 0;  // logical; a power of two, at least 512
  bool writable = false;
};

// A request that has been checked. Views point into the element.
struct BlkRequest {
  BlkCommand command = BlkCommand::unsupported;
  uint8_t verdict = VIRTIO_BLK_S_OK;  // another one: answer this, and do nothing
  bool unmap = false;                 // of write_zeroes
  std::byte* status = nullptr;        // null: there is no room for an answer
  uint64_t offset = 0;                // bytes
  uint64_t bytes = 0;                 // of discard and write_zeroes
  IoVector data;                      // of read (written to), write (read from), get_id
  // What the used ring says about a request that was answered: the data and the status.
  uint32_t written(bool with_data) const noexcept {
    return static_cast<uint32_t>(status == nullptr ? 0 : (with_data ? data.size() : 0) + 1);
  }
};

// How the pieces of a request are spread over descriptors is the driver's affair.
BlkRequest parse_blk_request(const Element& element, const BlkLimits& limits) noexcept;

// The configuration space, as QEMU's export has it.
struct BlkShape {
  uint64_t bytes = 0;
  uint32_t block_size = 0;
  uint16_t queues = 1;
  bool write_cache = true;
};
virtio_blk_config make_blk_config(const BlkShape& shape) noexcept;

}  // namespace strata::virtio
