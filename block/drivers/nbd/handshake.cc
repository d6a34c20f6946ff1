// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/nbd/handshake.h"

#include <array>
#include <cerrno>

#include "block/base/error.h"
#include "block/nbd/names.h"
#include "block/nbd/options.h"

namespace strata::nbd_client {
namespace {

using nbd::Info;
using nbd::Option;
using nbd::OptionReply;
using nbd::ReplyMode;

// A server that lists more has run wild.
constexpr size_t kMostExports = 1 << 16;
constexpr size_t kMostContexts = 1 << 16;
constexpr size_t kMostInfos = 1 << 10;

std::string quote(Option option) {
  return fmt::format("option {} ({})", static_cast<uint32_t>(option), to_string(option));
}

// What an error reply means; `name` is the export's.
Error refusal(Option option, OptionReply kind) {
  switch (kind) {
    case OptionReply::err_unsup:
      return Error("Unsupported option type {} ({})", static_cast<uint32_t>(option),
                   to_string(option));
    case OptionReply::err_policy:
      return Error("Denied by server for {}", quote(option));
    case OptionReply::err_invalid:
      return Error("Invalid parameters for {}", quote(option));
    case OptionReply::err_platform:
      return Error("Server lacks support for {}", quote(option));
    case OptionReply::err_tls_reqd:
      return Error("TLS negotiation required before {}", quote(option))
          .hint("Did you forget a valid tls-creds?\n");
    case OptionReply::err_unknown:
      return Error("Requested export not available");
    case OptionReply::err_shutdown:
      return Error("Server shutting down before {}", quote(option));
    case OptionReply::err_block_size_reqd:
      return Error("Server requires INFO_BLOCK_SIZE for {}", quote(option));
    default:
      return Error("Unknown error code when asking for {}", quote(option));
  }
}

}  // namespace

// A server that has refused something is told that nothing more will come.
Task<ExportInfo> Handshake::enter() {
  std::optional<Error> failure;
  ExportInfo info;
  try {
    info = co_await negotiate();
  } catch (const Error& error) {
    failure = error;
  }
  if (!failure) co_return info;
  if (refused_) co_await abort();
  throw *std::move(failure);
}

Task<std::vector<ExportInfo>> Handshake::list() {
  std::optional<Error> failure;
  std::vector<ExportInfo> exports;
  try {
    exports = co_await collect();
  } catch (const Error& error) {
    failure = error;
  }
  if (!failure || refused_) co_await abort();
  if (failure) throw *std::move(failure);
  co_return exports;
}

Task<ExportInfo> Handshake::negotiate() {
  if (std::optional<ExportInfo> oldstyle = co_await greet()) co_return *std::move(oldstyle);
  if (options_.tls) co_await start_tls();
  if (fixed_) {
    if (!options_.simple_replies) co_await agree_on_mode();
    ExportInfo info;
    info.name = options_.export_name;
    if (mode_ != ReplyMode::simple) co_await set_context(info);
    if (co_await go(info, Option::go)) {
      info.mode = mode_;
      co_return info;
    }
    // A server that does not know GO answers EXPORT_NAME with silence where there is no such
    // export; its list says so in words.
    std::vector<std::string> known = co_await names();
    if (std::ranges::find(known, options_.export_name) == known.end())
      throw Error("No export with name '{}' available", options_.export_name);
    ExportInfo entered = co_await enter_by_export_name();
    entered.context = info.context;
    co_return entered;
  }
  co_return co_await enter_by_export_name();
}

Task<std::vector<ExportInfo>> Handshake::collect() {
  std::vector<ExportInfo> exports;
  if (std::optional<ExportInfo> oldstyle = co_await greet()) {
    exports.push_back(*std::move(oldstyle));
    co_return exports;
  }
  if (options_.tls) co_await start_tls();
  if (!fixed_) throw Error("Server does not support export lists");
  co_await agree_on_mode();
  std::vector<std::string> descriptions;
  co_await send(Option::list, {});
  for (;;) {
    Reply reply = co_await receive(Option::list);
    if (reply.kind == OptionReply::ack) break;
    if (!accepts(Option::list, reply)) throw refusal(Option::list, OptionReply::err_unsup);
    auto entry = nbd::parse_server_entry(reply.payload);
    if (reply.kind != OptionReply::server || !entry)
      throw Error("Unexpected reply type {} ({}), expected 2 (server)",
                  static_cast<uint32_t>(reply.kind), to_string(reply.kind));
    if (exports.size() == kMostExports) throw Error("Server lists too many exports");
    ExportInfo& info = exports.emplace_back();
    info.name = entry->name;
    info.description = entry->description;
    info.mode = mode_;
  }
  for (ExportInfo& info : exports) {
    if (!co_await go(info, Option::info)) break;
    if (mode_ != ReplyMode::simple) co_await list_contexts(info);
  }
  co_return exports;
}

Task<std::optional<ExportInfo>> Handshake::greet() {
  std::array<std::byte, nbd::kGreetingSize> bytes{};
  co_await read(bytes.data(), 8, "initial magic");
  auto magic = nbd::load<uint64_t>(bytes.data());
  if (magic != nbd::kInitMagic) throw Error("Bad initial magic received: 0x{:x}", magic);
  co_await read(bytes.data() + 8, 8, "server magic");
  magic = nbd::load<uint64_t>(bytes.data() + 8);
  if (magic == nbd::kOldstyleMagic) {
    if (options_.tls) throw Error("Server does not support STARTTLS");
    if (!options_.export_name.empty())
      throw Error("Server does not support non-empty export names");
    std::array<std::byte, nbd::kOldstyleTailSize> tail;
    co_await read(tail.data(), tail.size(), "export length");
    ExportInfo info;
    info.size = nbd::load<uint64_t>(tail.data());
    auto flags = nbd::load<uint32_t>(tail.data() + 8);
    if ((flags & ~uint32_t{0xffff}) != 0) throw Error("Unexpected export flags {:x}", flags);
    info.flags = static_cast<uint16_t>(flags);
    co_return info;
  }
  if (magic != nbd::kOptionMagic) throw Error("Bad server magic received: 0x{:x}", magic);
  co_await read(bytes.data() + 16, 2, "server flags");
  auto flags = nbd::load<uint16_t>(bytes.data() + 16);
  fixed_ = (flags & nbd::kFlagFixedNewstyle) != 0;
  no_zeroes_ = (flags & nbd::kFlagNoZeroes) != 0;
  nbd::Message answer;
  answer.put(uint32_t{flags} & uint32_t{nbd::kFlagFixedNewstyle | nbd::kFlagNoZeroes});
  co_await write(answer.bytes(), "clientflags field");
  co_return std::nullopt;
}

// What the server has said before counts for nothing afterwards; so far it has said nothing.
Task<void> Handshake::start_tls() {
  if (!fixed_) throw Error("Server does not support STARTTLS");
  co_await send(Option::starttls, {});
  Reply reply = co_await receive(Option::starttls);
  if (!accepts(Option::starttls, reply)) throw Error("Server don't support STARTTLS option");
  if (reply.kind != OptionReply::ack)
    throw Error("Server answered option {} ({}) with unexpected reply {} ({})",
                static_cast<uint32_t>(Option::starttls), to_string(Option::starttls),
                static_cast<uint32_t>(reply.kind), to_string(reply.kind));
  if (!reply.payload.empty()) throw Error("Unexpected length to ACK response");
  co_await channel_.start_tls(options_.tls, options_.tls_hostname);
}

Task<void> Handshake::agree_on_mode() {
  if (co_await request_simple(Option::extended_headers))
    mode_ = ReplyMode::extended;
  else if (co_await request_simple(Option::structured_reply))
    mode_ = ReplyMode::structured;
}

// An option without payload that a server may not know, or may refuse: neither is an error.
Task<bool> Handshake::request_simple(Option option) {
  co_await send(option, {});
  Reply reply = co_await receive(option);
  if (reply.kind == OptionReply::ack) {
    if (!reply.payload.empty())
      throw Error("Option {} ('{}') response length is {} (it should be zero)",
                  static_cast<uint32_t>(option), to_string(option), reply.payload.size());
    co_return true;
  }
  if (!nbd::is_error(reply.kind))
    throw Error("Unexpected reply type {} ({}), expected 1 (ack)",
                static_cast<uint32_t>(reply.kind), to_string(reply.kind));
  co_return false;
}

Task<void> Handshake::set_context(ExportInfo& info) {
  std::array queries{options_.context};
  co_await send(Option::set_meta_context,
                nbd::build_meta_option(options_.export_name, queries).bytes());
  for (;;) {
    Reply reply = co_await receive(Option::set_meta_context);
    if (reply.kind == OptionReply::ack) co_return;
    // GO will tell what is wrong with the export.
    if (nbd::is_error(reply.kind)) co_return;
    auto entry = nbd::parse_meta_context(reply.payload);
    if (reply.kind != OptionReply::meta_context || !entry)
      throw Error("Unexpected reply type {} ({}), expected 4 (meta context)",
                  static_cast<uint32_t>(reply.kind), to_string(reply.kind));
    if (entry->name != options_.context)
      throw Error(
          "Failed to negotiate meta context '{}', server answered with different context '{}'",
          options_.context, entry->name);
    if (info.context) throw Error("Server answered with more than one context");
    info.context = entry->id;
  }
}

// INFO or GO. False where the server does not know it.
Task<bool> Handshake::go(ExportInfo& info, Option option) {
  std::array requests{Info::block_size};
  co_await send(option, nbd::build_info_option(info.name, requests).bytes());
  bool has_export = false;
  for (size_t count = 0; count < kMostInfos; ++count) {
    Reply reply = co_await receive(option);
    if (!accepts(option, reply)) co_return false;
    if (reply.kind == OptionReply::ack) {
      if (!has_export) throw Error("broken server omitted NBD_INFO_EXPORT");
      co_return true;
    }
    if (reply.kind != OptionReply::info)
      throw Error("unexpected reply type {} ({}), expected 3 (info)",
                  static_cast<uint32_t>(reply.kind), to_string(reply.kind));
    auto what = nbd::parse_info_reply(reply.payload);
    if (!what) throw Error("NBD_REP_INFO length {} is too short", reply.payload.size());
    has_export |= what->info == Info::export_;
    take_info(info, reply);
  }
  throw Error("Server sends too much information");
}

void Handshake::take_info(ExportInfo& info, const Reply& reply) const {
  nbd::InfoReply what = *nbd::parse_info_reply(reply.payload);
  switch (what.info) {
    case Info::export_: {
      auto found = nbd::parse_info_export(what.payload);
      if (!found)
        throw Error("remaining export info len {} is unexpected size", what.payload.size());
      info.size = found->size;
      info.flags = found->transmission_flags;
      break;
    }
    case Info::block_size:
      info.sizes = nbd::parse_info_block_size(what.payload);
      if (!info.sizes) throw Error("server block sizes are invalid");
      break;
    case Info::description:
      info.description = nbd::as_text(what.payload);
      break;
    default:
      break;  // not asked for, and of no use
  }
}

Task<ExportInfo> Handshake::enter_by_export_name() {
  co_await send(Option::export_name, nbd::as_bytes(options_.export_name));
  std::array<std::byte, nbd::kExportNameReplySize> bytes;
  co_await read(bytes.data(), bytes.size(), "export length");
  if (!no_zeroes_) {
    std::array<std::byte, nbd::kExportNamePadding> padding;
    co_await read(padding.data(), padding.size(), "reserved block");
  }
  nbd::ExportSize found = nbd::decode_export_name_reply(bytes);
  ExportInfo info;
  info.name = options_.export_name;
  info.size = found.size;
  info.flags = found.transmission_flags;
  info.mode = mode_;
  co_return info;
}

// The names of LIST; only the one wanted where the server keeps its list to itself.
Task<std::vector<std::string>> Handshake::names() {
  std::vector<std::string> found;
  co_await send(Option::list, {});
  for (;;) {
    Reply reply = co_await receive(Option::list);
    if (reply.kind == OptionReply::ack) co_return found;
    if (reply.kind == OptionReply::err_unsup) co_return std::vector{options_.export_name};
    accepts(Option::list, reply);
    auto entry = nbd::parse_server_entry(reply.payload);
    if (reply.kind != OptionReply::server || !entry)
      throw Error("Unexpected reply type {} ({}), expected 2 (server)",
                  static_cast<uint32_t>(reply.kind), to_string(reply.kind));
    if (found.size() == kMostExports) throw Error("Server lists too many exports");
    found.emplace_back(entry->name);
  }
}

Task<void> Handshake::list_contexts(ExportInfo& info) {
  co_await send(Option::list_meta_context, nbd::build_meta_option(info.name, {}).bytes());
  for (;;) {
    Reply reply = co_await receive(Option::list_meta_context);
    if (reply.kind == OptionReply::ack || nbd::is_error(reply.kind)) co_return;
    auto entry = nbd::parse_meta_context(reply.payload);
    if (reply.kind != OptionReply::meta_context || !entry)
      throw Error("Unexpected reply type {} ({}), expected 4 (meta context)",
                  static_cast<uint32_t>(reply.kind), to_string(reply.kind));
    if (info.contexts.size() == kMostContexts) throw Error("Server lists too many contexts");
    info.contexts.emplace_back(entry->name);
  }
}

Task<void> Handshake::send(Option option, nbd::ConstBytes payload) {
  auto header = nbd::encode_option_header(
      {.option = option, .length = static_cast<uint32_t>(payload.size())});
  nbd::Message message;
  message.put(nbd::ConstBytes(header)).put(payload);
  co_await write(message.bytes(), "option request");
}

Task<Handshake::Reply> Handshake::receive(Option option) {
  std::array<std::byte, nbd::kOptionReplyHeaderSize> bytes;
  co_await read(bytes.data(), bytes.size(), "option reply");
  auto header = nbd::decode_option_reply_header(bytes);
  if (!header) throw Error("Unexpected option reply magic");
  if (header->option != option)
    throw Error("Unexpected option type {} ({}), expected {} ({})",
                static_cast<uint32_t>(header->option), to_string(header->option),
                static_cast<uint32_t>(option), to_string(option));
  if (header->length > nbd::kMaxOptionReply)
    throw Error("server error {} ({}) message is too long", static_cast<uint32_t>(header->reply),
                to_string(header->reply));
  Reply reply{.kind = header->reply, .payload = std::vector<std::byte>(header->length)};
  if (header->length != 0)
    co_await read(reply.payload.data(), reply.payload.size(), "option reply payload");
  co_return reply;
}

bool Handshake::accepts(Option option, const Reply& reply) {
  if (!nbd::is_error(reply.kind)) return true;
  if (reply.kind == OptionReply::err_unsup) return false;
  refused_ = true;
  Error error = refusal(option, reply.kind);
  if (reply.payload.empty()) throw error;
  throw std::move(error).hint(fmt::format("server reported: {}\n", nbd::as_text(reply.payload)));
}

Task<void> Handshake::read(void* into, size_t size, std::string_view what) {
  Status status = co_await stream().read_exactly(IoVector::buffer(into, size));
  if (status.ok()) co_return;
  throw Error::from_text(fmt::format("Failed to read {}: {}", what,
                                     stream().describe_read_failure(status.error_number())),
                         EIO);
}

Task<void> Handshake::write(nbd::ConstBytes bytes, std::string_view what) {
  Status status = co_await stream().write_all(bytes);
  if (!status.ok())
    throw Error::from_errno(status.error_number(), "Failed to send {}: Unable to write to socket",
                            what);
}

// The server may be told; whether it hears does not matter.
Task<void> Handshake::abort() {
  auto header = nbd::encode_option_header({.option = Option::abort, .length = 0});
  std::ignore = co_await stream().write_all(header);
}

}  // namespace strata::nbd_client
