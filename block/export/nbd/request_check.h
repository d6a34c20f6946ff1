// SPDX-License-Identifier: GPL-2.0-or-later
//
// What is wrong with a request, before anything is done for it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "block/nbd/request.h"

namespace strata::nbd_export {

// What a connection has agreed on, as far as requests are concerned.
struct Terms {
  nbd::ReplyMode mode = nbd::ReplyMode::simple;
  uint64_t size = 0;  // of the export, bytes
  bool read_only = false;
  bool has_contexts = false;  // of metadata
};

struct RequestFault {
  int error = 0;  // errno
  std::string text;
  bool disconnect = false;  // the stream cannot be followed any further once this was answered
};

// Faults that make the request's payload not worth receiving, or not safe.
std::optional<RequestFault> check_before_payload(const nbd::Request& request, const Terms& terms);
// All others. READ, WRITE and CACHE that pass are at most 32 MiB long; every command that has a
// range lies within the export.
std::optional<RequestFault> check_request(const nbd::Request& request, const Terms& terms);

}  // namespace strata::nbd_export
