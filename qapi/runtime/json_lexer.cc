// SPDX-License-Identifier: GPL-2.0-or-later
#include "qapi/runtime/json_lexer.h"

#include <utility>

namespace strata::qapi {

namespace {

bool is_digit(unsigned char byte) {
  return byte >= '0' && byte <= '9';
}
bool is_space(unsigned char byte) {
  return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
}

std::optional<JsonTokenKind> structural(unsigned char byte) {
  switch (byte) {
    case '{':
      return JsonTokenKind::open_brace;
    case '}':
      return JsonTokenKind::close_brace;
    case '[':
      return JsonTokenKind::open_bracket;
    case ']':
      return JsonTokenKind::close_bracket;
    case ':':
      return JsonTokenKind::colon;
    case ',':
      return JsonTokenKind::comma;
    default:
      return std::nullopt;
  }
}

}  // namespace

std::optional<JsonToken> JsonLexer::next(std::string_view& input) {
  while (!input.empty()) {
    const auto byte = static_cast<unsigned char>(input.front());
    if (state_ == State::recovery) {
      if (byte < 0x20 || byte >= 0xFE || structural(byte)) {
        state_ = State::start;
      } else {
        input.remove_prefix(1);
      }
      continue;
    }
    if (state_ == State::start && is_space(byte)) {
      input.remove_prefix(1);
      continue;
    }
    const Step result = step(byte);
    if (result == Step::finished_before) return take(kind_, State::start);
    text_.push_back(static_cast<char>(byte));
    input.remove_prefix(1);
    if (result == Step::finished) return take(kind_, State::start);
    if (result == Step::wrong) return take(JsonTokenKind::error, State::recovery);
    if (text_.size() > max_token_) {
      text_.clear();
      return take(JsonTokenKind::too_long, State::recovery);
    }
  }
  return std::nullopt;
}

std::optional<JsonToken> JsonLexer::finish() {
  const State state = std::exchange(state_, State::start);
  switch (state) {
    case State::start:
    case State::recovery:
      return std::nullopt;
    case State::keyword:
      return take(JsonTokenKind::keyword, State::start);
    case State::zero:
    case State::digits:
      return take(JsonTokenKind::integer, State::start);
    case State::fraction:
    case State::exponent_digits:
      return take(JsonTokenKind::real, State::start);
    default:
      return take(JsonTokenKind::error, State::start);
  }
}

JsonToken JsonLexer::take(JsonTokenKind kind, State next_state) {
  state_ = next_state;
  return JsonToken{kind, std::exchange(text_, {})};
}

JsonLexer::Step JsonLexer::go(State state) {
  state_ = state;
  return Step::consumed;
}

JsonLexer::Step JsonLexer::finish_token(JsonTokenKind kind, Step how) {
  kind_ = kind;
  return how;
}

JsonLexer::Step JsonLexer::step(unsigned char byte) {
  switch (state_) {
    case State::start:
      return start(byte);
    case State::keyword:
      if (byte >= 'a' && byte <= 'z') return Step::consumed;
      return finish_token(JsonTokenKind::keyword, Step::finished_before);
    case State::single_quoted:
      return in_string(byte, '\'', State::single_escape);
    case State::double_quoted:
      return in_string(byte, '"', State::double_escape);
    case State::single_escape:
    case State::double_escape:
      if (byte < 0x20 || byte >= 0xFE) return Step::wrong;
      return go(state_ == State::single_escape ? State::single_quoted : State::double_quoted);
    default:
      return in_number(byte);
  }
}

JsonLexer::Step JsonLexer::start(unsigned char byte) {
  if (const auto kind = structural(byte)) return finish_token(*kind, Step::finished);
  if (byte == '"') return go(State::double_quoted);
  if (byte == '\'') return go(State::single_quoted);
  if (byte == '-') return go(State::minus);
  if (byte == '0') return go(State::zero);
  if (is_digit(byte)) return go(State::digits);
  if (byte >= 'a' && byte <= 'z') return go(State::keyword);
  return Step::wrong;
}

JsonLexer::Step JsonLexer::in_string(unsigned char byte, char quote, State escape) {
  if (byte == static_cast<unsigned char>(quote)) {
    return finish_token(JsonTokenKind::string, Step::finished);
  }
  if (byte == '\\') return go(escape);
  return byte < 0x20 || byte >= 0xFE ? Step::wrong : Step::consumed;
}

JsonLexer::Step JsonLexer::in_number(unsigned char byte) {
  const bool digit = is_digit(byte);
  const bool is_exponent = byte == 'e' || byte == 'E';
  switch (state_) {
    case State::minus:
      if (byte == '0') return go(State::zero);
      return digit ? go(State::digits) : Step::wrong;
    case State::zero:
      if (digit) return Step::wrong;
      [[fallthrough]];
    case State::digits:
      if (digit) return Step::consumed;
      if (byte == '.') return go(State::point);
      if (is_exponent) return go(State::exponent);
      return finish_token(JsonTokenKind::integer, Step::finished_before);
    case State::point:
      return digit ? go(State::fraction) : Step::wrong;
    case State::fraction:
      if (digit) return Step::consumed;
      if (is_exponent) return go(State::exponent);
      return finish_token(JsonTokenKind::real, Step::finished_before);
    case State::exponent:
      if (byte == '+' || byte == '-') return go(State::exponent_sign);
      [[fallthrough]];
    case State::exponent_sign:
      return digit ? go(State::exponent_digits) : Step::wrong;
    default:
      return digit ? Step::consumed : finish_token(JsonTokenKind::real, Step::finished_before);
  }
}

}  // namespace strata::qapi
