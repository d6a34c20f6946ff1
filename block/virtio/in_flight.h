// SPDX-License-Identifier: GPL-2.0-or-later
//
// The in-flight area: what a front end keeps for a back end that dies, so that its successor knows
// which requests had been taken and not answered. The layouts are those of the vhost-user
// specification. The other side may write anything into it: whatever is read from here is checked.
#pragma once

#include <cstddef>
#include <cstdint>

namespace strata::virtio {

inline constexpr uint16_t kInFlightVersion = 1;

struct DescStateSplit {
  uint8_t inflight;
  uint8_t padding[5];
  uint16_t next;
  uint64_t counter;
};
struct QueueRegionSplit {
  uint64_t features;
  uint16_t version;
  uint16_t desc_num;
  uint16_t last_batch_head;
  uint16_t used_idx;
  DescStateSplit desc[];
};
static_assert(sizeof(DescStateSplit) == 16 && sizeof(QueueRegionSplit) == 16);

struct DescStatePacked {
  uint8_t inflight;
  uint8_t padding;
  uint16_t next;
  uint16_t last;
  uint16_t num;
  uint64_t counter;
  uint16_t id;
  uint16_t flags;
  uint32_t len;
  uint64_t addr;
};
struct QueueRegionPacked {
  uint64_t features;
  uint16_t version;
  uint16_t desc_num;
  uint16_t free_head;
  uint16_t old_free_head;
  uint16_t used_idx;
  uint16_t old_used_idx;
  uint8_t used_wrap_counter;
  uint8_t old_used_wrap_counter;
  uint8_t padding[7];
  DescStatePacked desc[];
};
static_assert(sizeof(DescStatePacked) == 32 && sizeof(QueueRegionPacked) == 32);

// The bytes that one queue's part takes.
constexpr uint64_t in_flight_bytes(bool packed, uint16_t queue_size) noexcept {
  uint64_t bytes = packed ? sizeof(QueueRegionPacked) + queue_size * sizeof(DescStatePacked)
                          : sizeof(QueueRegionSplit) + queue_size * sizeof(DescStateSplit);
  return (bytes + 63) & ~uint64_t{63};
}

}  // namespace strata::virtio
