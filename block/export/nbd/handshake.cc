// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/nbd/handshake.h"

#include <fmt/format.h>

#include <array>

#include "block/aio/stream.h"
#include "block/aio/tls/tls_stream.h"
#include "block/nbd/names.h"

namespace strata::nbd_export {
namespace {

using nbd::Option;
using nbd::OptionHeader;
using nbd::OptionReply;

constexpr size_t kShownName = 80;

// How much of an option's payload is kept. Zero: the option has none, what there is is thrown away.
uint32_t payload_limit(Option option) noexcept {
  switch (option) {
    case Option::export_name:
      return nbd::kMaxString;
    case Option::info:
    case Option::go:
      return nbd::kMaxInfoOption;
    case Option::list_meta_context:
    case Option::set_meta_context:
      return nbd::kMaxMetaOption;
    default:
      return 0;
  }
}

bool takes_no_payload(Option option) noexcept {
  switch (option) {
    case Option::list:
    case Option::starttls:
    case Option::structured_reply:
    case Option::extended_headers:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::string shorten_name(std::string_view name) {
  if (name.size() <= kShownName) return std::string(name);
  return fmt::format("{}...", name.substr(0, kShownName));
}

Task<std::optional<Agreement>> Handshake::run() {
  Next next = co_await greet();
  while (next == Next::option) next = co_await take_option();
  if (next == Next::disconnect) co_return std::nullopt;
  if (contexts_of_.get() != target_.get()) contexts_.clear();
  co_return Agreement{.target = std::move(target_), .mode = mode_, .contexts = contexts_};
}

Task<Handshake::Next> Handshake::greet() {
  auto greeting = nbd::encode_greeting(nbd::kFlagFixedNewstyle | nbd::kFlagNoZeroes);
  if (!(co_await stream_->write_all(greeting)).ok()) co_return Next::disconnect;
  std::array<std::byte, nbd::kClientFlagsSize> bytes;
  Status read = co_await stream_->read_exactly(IoVector::buffer(bytes.data(), bytes.size()));
  if (!read) co_return give_up_reading("flags", read.error_number());
  auto flags = nbd::load<uint32_t>(bytes.data());
  if (!nbd::client_flags_known(flags)) {
    co_return give_up(fmt::format("Unknown client flags 0x{:x} received",
                                  flags & ~uint32_t{nbd::kFlagFixedNewstyle | nbd::kFlagNoZeroes}));
  }
  fixed_ = (flags & nbd::kFlagFixedNewstyle) != 0;
  no_zeroes_ = (flags & nbd::kFlagNoZeroes) != 0;
  co_return Next::option;
}

Task<Handshake::Next> Handshake::take_option() {
  std::array<std::byte, nbd::kOptionHeaderSize> bytes;
  Status read = co_await stream_->read_exactly(IoVector::buffer(bytes.data(), bytes.size()));
  if (!read) co_return give_up_reading("opts magic", read.error_number());
  auto header = nbd::decode_option_header(bytes);
  if (!header) co_return give_up("Bad magic received");
  auto [option, length] = *header;
  if (length > nbd::kMaxPayload) {
    co_return give_up(
        fmt::format("len ({} ) is larger than max len ({})", length, nbd::kMaxPayload));
  }
  if (!fixed_ && option != Option::export_name) {
    co_return give_up(fmt::format("Unsupported option {} ({})", static_cast<uint32_t>(option),
                                  to_string(option)));
  }
  if (needs_tls(option)) {
    if (!co_await discard(length)) co_return Next::disconnect;
    co_return co_await refuse_before_tls(option);
  }
  if (length > payload_limit(option)) {
    if (option == Option::export_name) co_return give_up("Bad length received");
    if (!co_await discard(length)) co_return Next::disconnect;
    if (payload_limit(option) != 0) {
      co_return co_await refuse(
          option, OptionReply::err_too_big,
          fmt::format("option '{}' is too long: {} bytes", to_string(option), length));
    }
    payload_.clear();
  } else {
    payload_.resize(length);
    read = co_await stream_->read_exactly(IoVector::buffer(payload_.data(), length));
    if (!read) co_return Next::disconnect;
  }
  co_return co_await dispatch(*header, payload_);
}

Task<Handshake::Next> Handshake::dispatch(OptionHeader header, Payload payload) {
  Option option = header.option;
  if (takes_no_payload(option)) {
    if (auto fault = nbd::check_no_payload(option, header.length)) return refuse(option, *fault);
  }
  switch (option) {
    case Option::export_name:
      return export_name(payload);
    case Option::abort:
      return abort();
    case Option::list:
      return list();
    case Option::starttls:
      return starttls();
    case Option::info:
    case Option::go:
      return info(option, payload);
    case Option::structured_reply:
      return structured_reply();
    case Option::extended_headers:
      return extended_headers();
    case Option::list_meta_context:
    case Option::set_meta_context:
      return meta_context(option, payload);
    case Option::peek_export:
      break;
  }
  return refuse(
      option, OptionReply::err_unsup,
      fmt::format("Unsupported option {} ({})", static_cast<uint32_t>(option), to_string(option)));
}

bool Handshake::needs_tls(Option option) const noexcept {
  return tls_.credentials && tls_.required && !secured_ && option != Option::starttls;
}

Task<Handshake::Next> Handshake::refuse_before_tls(Option option) {
  std::string text =
      fmt::format("Option 0x{:x} not permitted before TLS", static_cast<uint32_t>(option));
  if (option == Option::export_name) co_return give_up(std::move(text));
  Next next = co_await refuse(option, OptionReply::err_tls_reqd, std::move(text));
  co_return option == Option::abort ? Next::disconnect : next;
}

// The client is gone, or has never been one.
Handshake::Next Handshake::give_up_reading(std::string_view what, int error) {
  return give_up(fmt::format("Failed to read {}: {}", what, stream_->describe_read_failure(error)));
}

Task<bool> Handshake::discard(uint64_t length) {
  std::array<std::byte, 4096> scratch;
  while (length != 0) {
    auto room = IoVector::buffer(scratch.data(), std::min<uint64_t>(length, scratch.size()));
    Result<size_t> got = co_await stream_->read_some(room);
    if (!got || *got == 0) co_return false;
    length -= *got;
  }
  co_return true;
}

Handshake::Next Handshake::give_up(std::string problem) {
  problem_ = std::move(problem);
  return Next::disconnect;
}

Task<Handshake::Next> Handshake::answer(nbd::Message message) {
  bool sent = (co_await stream_->write_all(message.bytes())).ok();
  co_return sent ? Next::option : Next::disconnect;
}

Task<Handshake::Next> Handshake::refuse_unknown(Option option, std::string_view name) {
  return refuse(option, OptionReply::err_unknown,
                fmt::format("export '{}' not present", shorten_name(name)));
}

}  // namespace strata::nbd_export
