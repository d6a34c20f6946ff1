// SPDX-License-Identifier: GPL-2.0-or-later
//
// Splits a stream of bytes into JSON tokens, in QEMU's dialect: strings in single or double quotes.
// It keeps no more than the token under way, and finds its feet again after rubbish.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace strata::qapi {

enum class JsonTokenKind : std::uint8_t {
  open_brace,
  close_brace,
  open_bracket,
  close_bracket,
  colon,
  comma,
  integer,
  real,
  keyword,
  string,  // with its quotes and escapes
  error,   // what was read up to and with the byte that cannot be
  too_long,
};

struct JsonToken {
  JsonTokenKind kind;
  std::string text;
};

class JsonLexer {
 public:
  explicit JsonLexer(std::size_t max_token) : max_token_(max_token) {}

  // Takes bytes off the front of `input` until a token is complete; none when the input ran out.
  std::optional<JsonToken> next(std::string_view& input);
  // The token that only the end of the stream completes.
  std::optional<JsonToken> finish();

 private:
  enum class State : std::uint8_t {
    start,
    recovery,  // after an error: skips to a structural character, a control character or FE..FF
    keyword,
    single_quoted,
    single_escape,
    double_quoted,
    double_escape,
    minus,
    zero,
    digits,
    point,
    fraction,
    exponent,
    exponent_sign,
    exponent_digits,
  };
  enum class Step : std::uint8_t { consumed, finished, finished_before, wrong };

  Step step(unsigned char byte);
  Step start(unsigned char byte);
  Step in_string(unsigned char byte, char quote, State escape);
  Step in_number(unsigned char byte);
  Step go(State state);
  Step finish_token(JsonTokenKind kind, Step how);
  JsonToken take(JsonTokenKind kind, State next_state);

  std::size_t max_token_;
  State state_ = State::start;
  JsonTokenKind kind_ = JsonTokenKind::error;
  std::string text_;
};

}  // namespace strata::qapi
