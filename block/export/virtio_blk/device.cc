// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/virtio_blk/device.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>

#include "block/base/error.h"
#include "block/base/math.h"
#include "block/virtio/layout.h"

namespace strata::virtio_blk {
namespace {

constexpr uint64_t kSmallestBlock = 512;
constexpr uint64_t kLargestBlock = 2 << 20;

}  // namespace

uint64_t common_features(bool writable, size_t queues) noexcept {
  uint64_t features = bit(VIRTIO_F_VERSION_1) | bit(VIRTIO_RING_F_INDIRECT_DESC) |
                      bit(VIRTIO_RING_F_EVENT_IDX) | bit(VIRTIO_F_RING_PACKED) |
                      bit(VIRTIO_BLK_F_SEG_MAX) | bit(VIRTIO_BLK_F_BLK_SIZE) |
                      bit(VIRTIO_BLK_F_FLUSH) | bit(VIRTIO_BLK_F_TOPOLOGY) |
                      bit(VIRTIO_BLK_F_DISCARD) | bit(VIRTIO_BLK_F_WRITE_ZEROES);
  if (queues > 1) features |= bit(VIRTIO_BLK_F_MQ);
  if (!writable) features |= bit(VIRTIO_BLK_F_RO);
  return features;
}

uint32_t checked_block_size(const std::string& id, uint64_t size) {
  if (size < kSmallestBlock || size > kLargestBlock)
    throw Error("Property {}.logical-block-size doesn't take value {} (minimum: {}, maximum: {})",
                id, size, kSmallestBlock, kLargestBlock);
  if (!is_power_of_two(size))
    throw Error("Property {}.logical-block-size doesn't take value '{}', it's not a power of 2", id,
                size);
  return static_cast<uint32_t>(size);
}

uint16_t checked_queues(uint16_t queues) {
  if (queues == 0) throw Error("num-queues must be greater than 0");
  return queues;
}

}  // namespace strata::virtio_blk
