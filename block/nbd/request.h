// SPDX-License-Identifier: GPL-2.0-or-later
//
// Request headers of the transmission phase: compact (28 bytes) and extended (32 bytes). Both are
// values decoded from and encoded into buffers of the caller; nothing here allocates or fails
// half-way.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "block/nbd/protocol.h"
#include "block/nbd/wire.h"

namespace strata::nbd {

inline constexpr std::size_t kCompactRequestSize = 28;
inline constexpr std::size_t kExtendedRequestSize = 32;
inline constexpr std::size_t kMaxRequestSize = kExtendedRequestSize;

struct Request {
  std::uint64_t cookie = 0;  // the client's, returned as it came
  std::uint64_t offset = 0;  // bytes
  std::uint64_t length = 0;  // bytes of effect or, with kCmdPayloadLen, of payload
  Command command{};         // any value
  std::uint16_t flags = 0;   // CommandFlag, any value
  friend bool operator==(const Request&, const Request&) = default;
};

constexpr std::size_t request_size(ReplyMode mode) noexcept {
  return mode == ReplyMode::extended ? kExtendedRequestSize : kCompactRequestSize;
}

// How many bytes of payload follow the header. A WRITE carries `length` bytes; with extended
// headers any command may carry a payload, which a server has to take off the stream even where it
// refuses it.
constexpr std::uint64_t payload_length(const Request& request, ReplyMode mode) noexcept {
  bool announced = mode == ReplyMode::extended && (request.flags & kCmdPayloadLen) != 0;
  return request.command == Command::write || announced ? request.length : 0;
}

// Nothing where the magic is wrong. `bytes` holds request_size(mode) bytes.
inline std::optional<Request> decode_request(const std::byte* bytes, ReplyMode mode) noexcept {
  bool extended = mode == ReplyMode::extended;
  if (load<std::uint32_t>(bytes) != (extended ? kExtendedRequestMagic : kRequestMagic)) {
    return std::nullopt;
  }
  return Request{
      .cookie = load<std::uint64_t>(bytes + 8),
      .offset = load<std::uint64_t>(bytes + 16),
      .length = extended ? load<std::uint64_t>(bytes + 24) : load<std::uint32_t>(bytes + 24),
      .command = static_cast<Command>(load<std::uint16_t>(bytes + 6)),
      .flags = load<std::uint16_t>(bytes + 4)};
}

// Returns the size of the header. Without extended headers `length` must fit 32 bits: splitting
// requests is the caller's business.
inline std::size_t encode_request(std::span<std::byte, kMaxRequestSize> out, const Request& request,
                                  ReplyMode mode) noexcept {
  bool extended = mode == ReplyMode::extended;
  std::byte* to = out.data();
  store(to, extended ? kExtendedRequestMagic : kRequestMagic);
  store(to + 4, request.flags);
  store(to + 6, static_cast<std::uint16_t>(request.command));
  store(to + 8, request.cookie);
  store(to + 16, request.offset);
  if (extended) {
    store(to + 24, request.length);
  } else {
    store(to + 24, static_cast<std::uint32_t>(request.length));
  }
  return request_size(mode);
}

// The payload of BLOCK_STATUS where the server advertised kBlockStatusPayload: which of the
// negotiated contexts the client wants this time.
struct StatusPayload {
  std::uint64_t effect_length = 0;
  ConstBytes ids;  // 32 bits each
  std::size_t count() const noexcept { return ids.size() / sizeof(std::uint32_t); }
  std::uint32_t id(std::size_t index) const noexcept {
    return load<std::uint32_t>(ids.data() + index * sizeof(std::uint32_t));
  }
};
// Nothing where the payload is not a length and a list of ids. The ids are not checked.
std::optional<StatusPayload> parse_status_payload(ConstBytes payload) noexcept;

}  // namespace strata::nbd
