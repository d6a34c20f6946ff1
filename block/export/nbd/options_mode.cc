// SPDX-License-Identifier: GPL-2.0-or-later
//
// STRUCTURED_REPLY, EXTENDED_HEADERS, STARTTLS and ABORT: how the two sides talk, and when they
// stop.
#include "block/aio/stream.h"
#include "block/export/nbd/handshake.h"

namespace strata::nbd_export {

using nbd::Option;
using nbd::OptionReply;
using nbd::ReplyMode;

Task<Handshake::Next> Handshake::structured_reply() {
  if (mode_ == ReplyMode::extended) {
    return refuse(Option::structured_reply, OptionReply::err_ext_header_reqd,
                  "extended headers already negotiated");
  }
  if (mode_ == ReplyMode::structured) {
    return refuse(Option::structured_reply, OptionReply::err_invalid,
                  "structured reply already negotiated");
  }
  mode_ = ReplyMode::structured;
  return acknowledge(Option::structured_reply);
}

Task<Handshake::Next> Handshake::extended_headers() {
  if (mode_ == ReplyMode::extended) {
    return refuse(Option::extended_headers, OptionReply::err_invalid,
                  "extended headers already negotiated");
  }
  mode_ = ReplyMode::extended;
  return acknowledge(Option::extended_headers);
}

Task<Handshake::Next> Handshake::starttls() {
  return refuse(Option::starttls, OptionReply::err_policy, "TLS not configured");
}

Task<Handshake::Next> Handshake::abort() {
  // Whether the client still reads the reply does not matter.
  co_await acknowledge(Option::abort);
  co_return Next::disconnect;
}

}  // namespace strata::nbd_export
