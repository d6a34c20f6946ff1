// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/nbd/request_check.h"

#include <fmt/format.h>

#include <cerrno>

#include "block/nbd/names.h"

namespace strata::nbd_export {
namespace {

using nbd::Command;
using nbd::Request;

bool has_bulk(Command command) noexcept {
  return command == Command::read || command == Command::write || command == Command::cache;
}

bool modifies(Command command) noexcept {
  return command == Command::write || command == Command::write_zeroes || command == Command::trim;
}

// FUA is accepted with everything, as the protocol demands.
uint16_t allowed_flags(Command command, const Terms& terms) noexcept {
  switch (command) {
    case Command::read:
      return nbd::kCmdFua | (terms.mode != nbd::ReplyMode::simple ? nbd::kCmdDf : 0);
    case Command::write:
      return nbd::kCmdFua | (terms.mode == nbd::ReplyMode::extended ? nbd::kCmdPayloadLen : 0);
    case Command::write_zeroes:
      return nbd::kCmdFua | nbd::kCmdNoHole | nbd::kCmdFastZero;
    case Command::block_status:
      return nbd::kCmdFua | nbd::kCmdReqOne |
             (terms.mode == nbd::ReplyMode::extended ? nbd::kCmdPayloadLen : 0);
    default:
      return nbd::kCmdFua;
  }
}

// The texts below are QEMU's, the blank before the parenthesis included.
RequestFault too_long(uint64_t length) {
  return {EINVAL, fmt::format("len ({} ) is larger than max len ({})", length, nbd::kMaxPayload)};
}

bool is_known(Command command) noexcept {
  return command <= Command::block_status && command != Command::disconnect;
}

}  // namespace

std::optional<RequestFault> check_before_payload(const Request& request, const Terms& terms) {
  uint64_t payload = nbd::payload_length(request, terms.mode);
  if (payload > nbd::kMaxPayload) {
    RequestFault fault = too_long(payload);
    fault.disconnect = true;
    return fault;
  }
  if (has_bulk(request.command) && request.length > nbd::kMaxPayload) {
    return too_long(request.length);
  }
  return std::nullopt;
}

std::optional<RequestFault> check_request(const Request& request, const Terms& terms) {
  if (terms.read_only && modifies(request.command)) {
    return RequestFault{EINVAL, "Export is read-only"};
  }
  bool status_payload =
      request.command == Command::block_status && nbd::payload_length(request, terms.mode) != 0;
  // The range of a BLOCK_STATUS with payload is in the payload.
  if (!status_payload &&
      (request.offset > terms.size || request.length > terms.size - request.offset)) {
    return RequestFault{EINVAL, fmt::format("operation past EOF; From: {}, Len: {}, Size: {}",
                                            request.offset, request.length, terms.size)};
  }
  if ((request.flags & ~allowed_flags(request.command, terms)) != 0) {
    return RequestFault{EINVAL, fmt::format("unsupported flags for command {} (got 0x{:x})",
                                            to_string(request.command), request.flags)};
  }
  if (!is_known(request.command)) {
    return RequestFault{EINVAL, fmt::format("invalid request type ({}) received",
                                            static_cast<unsigned>(request.command))};
  }
  if (request.command == Command::block_status) {
    if (request.length == 0) return RequestFault{EINVAL, "need non-zero length"};
    if (!terms.has_contexts) return RequestFault{EINVAL, "CMD_BLOCK_STATUS not negotiated"};
  }
  return std::nullopt;
}

}  // namespace strata::nbd_export
