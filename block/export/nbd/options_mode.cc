// SPDX-License-Identifier: GPL-2.0-or-later
//
// STRUCTURED_REPLY, EXTENDED_HEADERS, STARTTLS and ABORT: how the two sides talk, and when they
// stop.
#include "block/aio/stream.h"
#include "block/aio/tls/tls_stream.h"
#include "block/base/error.h"
#include "block/export/access/authorization.h"
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
  if (secured_)
    co_return co_await refuse(Option::starttls, OptionReply::err_invalid, "TLS already enabled");
  if (!tls_.credentials)
    co_return co_await refuse(Option::starttls, OptionReply::err_policy, "TLS not configured");
  if (Next next = co_await acknowledge(Option::starttls); next != Next::option) co_return next;
  std::string failure;
  try {
    co_await secure();
  } catch (const Error& error) {
    failure = error.text();
  }
  // There is no way back to plain text.
  if (!failure.empty()) co_return give_up(std::move(failure));
  co_return Next::option;
}

// What was agreed on in plain text may have been slipped in by somebody else: it is forgotten.
Task<void> Handshake::secure() {
  mode_ = ReplyMode::simple;
  contexts_.clear();
  contexts_of_.reset();
  secured_.emplace(*stream_, tls_.credentials);
  stream_ = &*secured_;
  co_await secured_->handshake("");
  if (!tls_.authorization) co_return;
  std::string name = secured_->peer_name();
  if (!co_await tls_.authorization->allows(name))
    throw Error("TLS x509 authz check for {} is denied", name);
}

Task<Handshake::Next> Handshake::abort() {
  // Whether the client still reads the reply does not matter.
  co_await acknowledge(Option::abort);
  co_return Next::disconnect;
}

}  // namespace strata::nbd_export
