// SPDX-License-Identifier: GPL-2.0-or-later
//
// Messages: bytes to values and values to bytes. Pure: no sockets, no state.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "block/export/vhost_user/protocol.h"
#include "block/virtio/guest_memory.h"

namespace strata::vhost_user {

using ConstBytes = std::span<const std::byte>;

inline constexpr size_t kHeaderBytes = 12;
// The longest payload that is known here: a configuration space and what goes before it.
inline constexpr size_t kMostPayload = 12 + kMostConfig;

struct Header {
  uint32_t request = 0;
  uint32_t flags = 0;
  uint32_t size = 0;  // of the payload, bytes
};

struct VringState {
  uint32_t index = 0;
  uint32_t num = 0;
};
struct VringAddress {
  uint32_t index = 0;
  bool log = false;
  uint64_t descriptors = 0;
  uint64_t used = 0;
  uint64_t available = 0;
  uint64_t log_address = 0;  // of the used ring in the guest
};
struct VringFd {
  uint32_t index = 0;
  bool has_fd = false;
};
struct MemoryTable {
  std::array<virtio::RegionDescription, kMostTableRegions> regions{};
  size_t count = 0;
};
struct LogArea {
  uint64_t size = 0;
  uint64_t offset = 0;
};
struct ConfigAccess {
  uint32_t offset = 0;
  uint32_t size = 0;
  uint32_t flags = 0;
  ConstBytes data;  // of the payload's memory
};
struct InFlightArea {
  uint64_t size = 0;
  uint64_t offset = 0;
  uint16_t queues = 0;
  uint16_t queue_size = 0;
  size_t wire_bytes = 0;  // front ends differ in the padding at its end
};

using Payload =
    std::variant<std::monostate, uint64_t, VringState, VringAddress, VringFd, MemoryTable,
                 virtio::RegionDescription, LogArea, ConfigAccess, InFlightArea>;

struct Message {
  Request request{};
  bool needs_reply = false;
  Payload payload;

  template <class T>
  const T& get() const {
    return std::get<T>(payload);
  }
};

// Why the other side's bytes make no sense. The connection cannot go on.
struct Fault {
  std::string text;
};

// Checks all that can be checked before the payload is there.
std::variant<Header, Fault> decode_header(std::span<const std::byte, kHeaderBytes> bytes);
// `payload` is header.size bytes, and lives as long as a ConfigAccess is used; `fds` is how many
// descriptors came along.
std::variant<Message, Fault> decode_message(const Header& header, ConstBytes payload, size_t fds);

// "VHOST_USER_SET_VRING_NUM", for texts.
std::string_view name_of(Request request) noexcept;

// A message under way to the front end.
class Reply {
 public:
  // To `request`.
  explicit Reply(Request request) noexcept : Reply(uint32_t(request), kVersion | kReplyFlag) {}
  // A request of ours.
  explicit Reply(BackendRequest request) noexcept : Reply(uint32_t(request), kVersion) {}

  Reply& u64(uint64_t value) noexcept { return put(&value, sizeof value); }
  Reply& state(VringState state) noexcept;
  Reply& config(const ConfigAccess& access, ConstBytes data) noexcept;
  Reply& in_flight(const InFlightArea& area) noexcept;

  ConstBytes bytes() const noexcept { return {bytes_.data(), used_}; }

 private:
  Reply(uint32_t request, uint32_t flags) noexcept;
  Reply& put(const void* data, size_t size) noexcept;

  std::array<std::byte, kHeaderBytes + kMostPayload> bytes_{};
  size_t used_ = kHeaderBytes;
};

}  // namespace strata::vhost_user
