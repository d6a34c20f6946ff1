// SPDX-License-Identifier: GPL-2.0-or-later
//
// Payloads of the options a client sends: parsers for the server, builders for the client.
//
// Parsed values are views into the payload and live as long as it does; nothing is allocated but
// the text of a fault. A payload that parses is wholly consistent: every length in it has been
// checked.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "block/nbd/protocol.h"
#include "block/nbd/wire.h"

namespace strata::nbd {

// Why an option is refused: the error reply to send and the text to send with it.
struct OptionFault {
  OptionReply reply = OptionReply::err_invalid;
  std::string text;
};

template <class T>
using Parsed = std::variant<T, OptionFault>;

// For options that carry nothing (LIST, STARTTLS, STRUCTURED_REPLY, EXTENDED_HEADERS): the fault to
// answer with where the client sent a payload all the same.
std::optional<OptionFault> check_no_payload(Option option, std::uint32_t length);

// Whether a name or text may stand in the protocol: at most 4096 bytes, no NUL.
bool valid_string(std::string_view text) noexcept;

// INFO and GO.
struct InfoOption {
  std::string_view name;  // at most 4096 bytes, no NUL, not necessarily UTF-8
  ConstBytes requests;    // 16 bits each
  // Whether the client asks for `info` and so promises to respect it.
  bool asks_for(Info info) const noexcept;
};
// `option` is INFO or GO (for the texts).
Parsed<InfoOption> parse_info_option(Option option, ConstBytes payload);
Message build_info_option(std::string_view name, std::span<const Info> requests);

// The queries of LIST_META_CONTEXT and SET_META_CONTEXT, one at a time.
class MetaQueries {
 public:
  MetaQueries() noexcept = default;
  // `bytes` holds exactly `count` well-formed queries.
  MetaQueries(ConstBytes bytes, std::uint32_t count) noexcept : reader_(bytes), left_(count) {}
  std::uint32_t left() const noexcept { return left_; }
  // The next query, of any length; only while left() > 0.
  std::string_view next() noexcept {
    --left_;
    return reader_.take_text(reader_.take<std::uint32_t>());
  }

 private:
  Reader reader_{ConstBytes{}};
  std::uint32_t left_ = 0;
};

struct MetaOption {
  std::string_view name;  // of the export
  MetaQueries queries;
};
// `option` is LIST_META_CONTEXT or SET_META_CONTEXT (for the texts).
Parsed<MetaOption> parse_meta_option(Option option, ConstBytes payload);
Message build_meta_option(std::string_view name, std::span<const std::string> queries);

}  // namespace strata::nbd
