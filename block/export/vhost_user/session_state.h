// SPDX-License-Identifier: GPL-2.0-or-later
//
// All that a session knows and has, for a successor that goes on with it in another process.
#pragma once

#include <vector>

#include "block/base/unique_fd.h"
#include "block/export/vhost_user/message.h"
#include "block/export/virtio_blk/queue.h"

namespace strata::vhost_user {

struct RingState {
  uint16_t size = 0;
  uint32_t base = 0;
  bool has_addresses = false;
  bool enabled = false;
  bool has_kick = false;
  VringAddress addresses;
  virtio_blk::RingEvents events;
};

struct RegionState {
  virtio::RegionDescription description;
  UniqueFd fd;
};

struct SessionState {
  UniqueFd connection;
  uint64_t features = 0;
  uint64_t protocol_features = 0;
  uint64_t status = 0;
  std::vector<RegionState> regions;
  std::vector<RingState> rings;
  InFlightArea in_flight;
  UniqueFd in_flight_fd;
  LogArea log;
  UniqueFd log_fd;
  UniqueFd log_event;
  UniqueFd backend_channel;
};

// One descriptor in which all of it waits for unpack(). Throws Error, where it is too much, too.
UniqueFd pack(const SessionState& state);
// Throws Error.
SessionState unpack(UniqueFd packed);

}  // namespace strata::vhost_user
