// SPDX-License-Identifier: GPL-2.0-or-later
//
// The handshake of one connection, from the greeting to the transmission phase. Main loop only; no
// I/O on any node is done for it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block/coro/task.h"
#include "block/export/nbd/connection.h"
#include "block/nbd/handshake.h"
#include "block/nbd/meta_context.h"
#include "block/nbd/option_replies.h"
#include "block/nbd/options.h"

namespace strata {
class Authorization;
class Stream;
class TlsCredentials;
class TlsStream;
}  // namespace strata

namespace strata::nbd_export {

class ExportTable;

// How clients prove who they are.
struct TlsPolicy {
  std::shared_ptr<const TlsCredentials> credentials;  // null: no TLS
  std::shared_ptr<Authorization> authorization;       // null: whoever passes is welcome
  bool required = true;                               // nothing is said before STARTTLS
};

class Handshake {
 public:
  // All outlive the handshake; `secured` is where the stream over `stream` is made, and it outlives
  // the connection. Whoever limits the handshake's time shuts the stream down.
  Handshake(Stream& stream, const ExportTable& exports, const TlsPolicy& tls,
            std::optional<TlsStream>& secured) noexcept
      : stream_(&stream), exports_(exports), tls_(tls), secured_(secured) {}

  // What was agreed on. Nothing where the client left or must be disconnected; problem() then says
  // why, or is empty where nothing was wrong.
  Task<std::optional<Agreement>> run();
  const std::string& problem() const noexcept { return problem_; }
  // The export the client is about to be given; null until then.
  const NbdExport* target() const noexcept { return target_.get(); }

 private:
  enum class Next { option, transmission, disconnect };
  using Payload = nbd::ConstBytes;

  // handshake.cc
  Task<Next> greet();
  Task<Next> take_option();
  Task<Next> dispatch(nbd::OptionHeader header, Payload payload);
  Task<bool> discard(uint64_t length);
  // Whether the option has to wait for STARTTLS.
  bool needs_tls(nbd::Option option) const noexcept;
  Task<Next> refuse_before_tls(nbd::Option option);
  Next give_up(std::string problem);
  Task<Next> answer(nbd::Message message);
  Task<Next> acknowledge(nbd::Option option) { return answer(nbd::build_ack(option)); }
  Task<Next> refuse(nbd::Option option, nbd::OptionReply error, std::string text) {
    return answer(nbd::build_error(option, error, text));
  }
  Task<Next> refuse(nbd::Option option, const nbd::OptionFault& fault) {
    return refuse(option, fault.reply, fault.text);
  }
  Task<Next> refuse_unknown(nbd::Option option, std::string_view name);

  // options_export.cc
  // Null where there is none of that name, and none is promised any more.
  Task<std::shared_ptr<NbdExport>> find_export(std::string name);
  Task<Next> list();
  Task<Next> info(nbd::Option option, Payload payload);
  Task<Next> export_name(Payload payload);

  // options_meta.cc
  Task<Next> meta_context(nbd::Option option, Payload payload);

  // options_mode.cc
  Task<Next> structured_reply();
  Task<Next> extended_headers();
  Task<Next> starttls();
  Task<void> secure();
  Task<Next> abort();
  Next give_up_reading(std::string_view what, int error);

  Stream* stream_;
  const ExportTable& exports_;
  const TlsPolicy& tls_;
  std::optional<TlsStream>& secured_;
  std::string problem_;
  bool fixed_ = false;
  bool no_zeroes_ = false;
  nbd::ReplyMode mode_ = nbd::ReplyMode::simple;
  ExportUser target_;
  // What SET_META_CONTEXT selected, and of which export.
  nbd::MetaSelection contexts_;
  std::shared_ptr<NbdExport> contexts_of_;
  std::vector<std::byte> payload_;
};

// A name for an error text: what is longer than 80 bytes is cut.
std::string shorten_name(std::string_view name);

}  // namespace strata::nbd_export
