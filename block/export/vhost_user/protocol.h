// SPDX-License-Identifier: GPL-2.0-or-later
//
// The numbers of the vhost-user protocol.
#pragma once

#include <cstddef>
#include <cstdint>

#include "block/export/virtio_blk/device.h"

namespace strata::vhost_user {

enum class Request : uint32_t {
  get_features = 1,
  set_features = 2,
  set_owner = 3,
  reset_owner = 4,
  set_mem_table = 5,
  set_log_base = 6,
  set_log_fd = 7,
  set_vring_num = 8,
  set_vring_addr = 9,
  set_vring_base = 10,
  get_vring_base = 11,
  set_vring_kick = 12,
  set_vring_call = 13,
  set_vring_err = 14,
  get_protocol_features = 15,
  set_protocol_features = 16,
  get_queue_num = 17,
  set_vring_enable = 18,
  set_backend_req_fd = 21,
  get_config = 24,
  set_config = 25,
  get_inflight_fd = 31,
  set_inflight_fd = 32,
  reset_device = 34,
  get_max_mem_slots = 36,
  add_mem_reg = 37,
  rem_mem_reg = 38,
  set_status = 39,
  get_status = 40,
};

enum class BackendRequest : uint32_t { config_change = 2 };

// Of the header's flags.
inline constexpr uint32_t kVersionMask = 0x3;
inline constexpr uint32_t kVersion = 0x1;
inline constexpr uint32_t kReplyFlag = 1 << 2;
inline constexpr uint32_t kNeedReplyFlag = 1 << 3;

using virtio_blk::bit;

// Feature bits that are the protocol's, not the device's.
inline constexpr uint64_t kLogAll = bit(26);
inline constexpr uint64_t kProtocolFeatures = bit(30);

namespace feature {  // of the protocol
inline constexpr uint64_t kMq = bit(0);
inline constexpr uint64_t kLogShmfd = bit(1);
inline constexpr uint64_t kReplyAck = bit(3);
inline constexpr uint64_t kBackendReq = bit(5);
inline constexpr uint64_t kConfig = bit(9);
inline constexpr uint64_t kBackendSendFd = bit(10);
inline constexpr uint64_t kInflightShmfd = bit(12);
inline constexpr uint64_t kResetDevice = bit(13);
inline constexpr uint64_t kConfigureMemSlots = bit(15);
inline constexpr uint64_t kStatus = bit(16);
}  // namespace feature

inline constexpr uint32_t kVringLog = 1 << 0;       // flag of a vring's addresses
inline constexpr uint64_t kVringNoFd = bit(8);      // flag of kick, call and err
inline constexpr size_t kMostTableRegions = 8;      // of SET_MEM_TABLE
inline constexpr size_t kMostConfig = 256;          // bytes of configuration space
inline constexpr uint32_t kConfigForMigration = 1;  // flag of SET_CONFIG

}  // namespace strata::vhost_user
