// SPDX-License-Identifier: GPL-2.0-or-later
//
// The client's half of the handshake: from the greeting to the transmission phase, or to a list of
// what a server has. Runs in the context of its channel. Throws Error with QEMU's texts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "block/coro/task.h"
#include "block/drivers/nbd/channel.h"
#include "block/nbd/handshake.h"
#include "block/nbd/option_replies.h"

namespace strata::nbd_client {

struct HandshakeOptions {
  std::string export_name;
  // The metadata context to ask for; where the server has not got it there is none.
  std::string context{"base:allocation"};
  // Asks for nothing that makes replies other than simple ones, and for no context.
  bool simple_replies = false;
  // Null: no TLS. `tls_hostname` is what the server's certificate must name.
  std::shared_ptr<const TlsCredentials> tls;
  std::string tls_hostname;
};

// What a server says of an export.
struct ExportInfo {
  std::string name;
  std::string description;
  uint64_t size = 0;   // bytes
  uint16_t flags = 0;  // nbd::TransmissionFlag
  std::optional<nbd::BlockSizes> sizes;
  nbd::ReplyMode mode = nbd::ReplyMode::simple;
  std::optional<uint32_t> context;    // the id of the context asked for
  std::vector<std::string> contexts;  // list() only: the names of all

  bool has(nbd::TransmissionFlag flag) const noexcept { return (flags & flag) != 0; }
  bool read_only() const noexcept { return has(nbd::kReadOnly); }
};

class Handshake {
 public:
  // `channel` outlives the handshake. Whoever limits its time shuts the stream down.
  Handshake(Channel& channel, HandshakeOptions options) noexcept
      : channel_(channel), options_(std::move(options)) {}

  // Up to the transmission phase.
  Task<ExportInfo> enter();
  // All exports, with what there is to know of each; the connection is of no use afterwards.
  Task<std::vector<ExportInfo>> list();

 private:
  struct Reply {
    nbd::OptionReply kind{};
    std::vector<std::byte> payload;
  };

  Task<ExportInfo> negotiate();
  Task<std::vector<ExportInfo>> collect();
  // Returns the oldstyle export, or nothing in newstyle.
  Task<std::optional<ExportInfo>> greet();
  Task<void> start_tls();
  Task<void> agree_on_mode();
  Task<bool> request_simple(nbd::Option option);
  Task<void> set_context(ExportInfo& info);
  Task<bool> go(ExportInfo& info, nbd::Option option);
  Task<ExportInfo> enter_by_export_name();
  Task<std::vector<std::string>> names();
  Task<void> list_contexts(ExportInfo& info);

  Task<void> send(nbd::Option option, nbd::ConstBytes payload);
  Task<Reply> receive(nbd::Option option);
  // Whether the server knows the option; throws what else it refuses it with.
  bool accepts(nbd::Option option, const Reply& reply);
  void take_info(ExportInfo& info, const Reply& reply) const;
  Task<void> read(void* into, size_t size, std::string_view what);
  Task<void> write(nbd::ConstBytes bytes, std::string_view what);
  Task<void> abort();

  Stream& stream() noexcept { return channel_.stream(); }

  Channel& channel_;
  HandshakeOptions options_;
  bool fixed_ = false;
  bool no_zeroes_ = false;
  bool refused_ = false;  // the server is still listening
  nbd::ReplyMode mode_ = nbd::ReplyMode::simple;
};

}  // namespace strata::nbd_client
