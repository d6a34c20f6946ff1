// SPDX-License-Identifier: GPL-2.0-or-later
#include "qapi/runtime/json_parser.h"

#include <cerrno>
#include <cstdlib>
#include <utility>

#include "qapi/runtime/utf8.h"

namespace strata::qapi {

namespace json = boost::json;

namespace {

// The four hexadecimal digits at the front of `text`, or -1.
std::int32_t hex4(std::string_view text) {
  if (text.size() < 4) return -1;
  std::int32_t value = 0;
  for (const char c : text.substr(0, 4)) {
    int digit = -1;
    if (c >= '0' && c <= '9') digit = c - '0';
    if (c >= 'a' && c <= 'f') digit = c - 'a' + 10;
    if (c >= 'A' && c <= 'F') digit = c - 'A' + 10;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

// A \u escape at the front of `rest` (which starts at the backslash), maybe a pair of them.
std::int32_t unicode_escape(std::string_view& rest) {
  const std::string_view escape = rest;
  std::int32_t code = hex4(rest.substr(2));
  rest.remove_prefix(code < 0 ? 2 : 6);
  if (code >= 0xD800 && code <= 0xDBFF && rest.substr(0, 2) == "\\u") {
    const std::int32_t low = hex4(rest.substr(2));
    if (low >= 0xDC00 && low <= 0xDFFF) {
      rest.remove_prefix(6);
      code = 0x10000 + ((code & 0x3FF) << 10) + (low & 0x3FF);
    }
  }
  if (!is_character(code)) {
    throw Error("{} is not a valid Unicode character", escape.substr(0, 6));
  }
  return code;
}

char simple_escape(char c) {
  switch (c) {
    case '"':
    case '\'':
    case '\\':
    case '/':
      return c;
    case 'b':
      return '\b';
    case 'f':
      return '\f';
    case 'n':
      return '\n';
    case 'r':
      return '\r';
    case 't':
      return '\t';
    default:
      throw Error("invalid escape sequence in string");
  }
}

// The content of a string token. Throws Error.
std::string unquote(std::string_view token) {
  const char quote = token.front();
  std::string_view rest = token.substr(1);
  std::string out;
  out.reserve(rest.size());
  while (rest.front() != quote) {
    if (rest.front() != '\\') {
      const std::int32_t code = take_code_point(rest);
      if (code < 0) throw Error("invalid UTF-8 sequence in string");
      append_code_point(out, code);
    } else if (rest[1] == 'u') {
      append_code_point(out, unicode_escape(rest));
    } else {
      out.push_back(simple_escape(rest[1]));
      rest.remove_prefix(2);
    }
  }
  return out;
}

json::value number(const JsonToken& token) {
  const char* text = token.text.c_str();
  if (token.kind == JsonTokenKind::integer) {
    errno = 0;
    const std::int64_t value = std::strtoll(text, nullptr, 10);
    if (errno == 0) return value;
    if (text[0] != '-') {
      errno = 0;
      const std::uint64_t wide = std::strtoull(text, nullptr, 10);
      if (errno == 0) return wide;
    }
  }
  return std::strtod(text, nullptr);
}

json::value keyword(const std::string& text) {
  if (text == "true") return true;
  if (text == "false") return false;
  if (text == "null") return nullptr;
  throw Error("invalid keyword '{}'", text);
}

Error parse_error(std::string_view text) {
  return Error("JSON parse error, {}", text);
}

}  // namespace

std::optional<JsonParser::Item> JsonParser::next(std::string_view& input) {
  while (auto token = lexer_.next(input)) {
    if (auto item = accept(std::move(*token))) return item;
  }
  return std::nullopt;
}

std::optional<JsonParser::Item> JsonParser::finish() {
  if (auto token = lexer_.finish()) {
    if (auto item = accept(std::move(*token))) return item;
  }
  if (tokens_ == 0) return std::nullopt;
  fail("premature EOI");
  return take();
}

std::optional<JsonParser::Item> JsonParser::accept(JsonToken&& token) {
  if (token.kind == JsonTokenKind::error) {
    reset();
    // As a C string: nothing of what follows a zero byte is shown.
    return parse_error("stray '" + std::string(token.text.c_str()) + "'");
  }
  switch (token.kind) {
    case JsonTokenKind::open_brace:
      ++braces_;
      break;
    case JsonTokenKind::close_brace:
      --braces_;
      break;
    case JsonTokenKind::open_bracket:
      ++brackets_;
      break;
    case JsonTokenKind::close_bracket:
      --brackets_;
      break;
    default:
      break;
  }
  if (auto item = over_limit(token)) return item;
  if (!failed_) {
    try {
      structure(token);
    } catch (const Error& error) {
      fail(error.text());
    }
  }
  // A value ends where its brackets balance, or where that has become impossible.
  const bool open = (braces_ > 0 || brackets_ > 0) && braces_ >= 0 && brackets_ >= 0;
  if (open) return std::nullopt;
  return take();
}

std::optional<JsonParser::Item> JsonParser::over_limit(const JsonToken& token) {
  const char* what = nullptr;
  bytes_ += token.text.size();
  ++tokens_;
  if (token.kind == JsonTokenKind::too_long || bytes_ > limits_.bytes) {
    what = "JSON token size limit exceeded";
  } else if (tokens_ > limits_.tokens) {
    what = "JSON token count limit exceeded";
  } else if (braces_ + brackets_ > static_cast<long>(limits_.nesting)) {
    what = "JSON nesting depth limit exceeded";
  }
  if (!what) return std::nullopt;
  reset();
  return Error("{}", what);
}

void JsonParser::structure(const JsonToken& token) {
  const Expect expect = levels_.empty() ? Expect::value : levels_.back().expect;
  const bool in_object = !levels_.empty() && levels_.back().is_object;
  const auto end = in_object ? JsonTokenKind::close_brace : JsonTokenKind::close_bracket;
  switch (expect) {
    case Expect::colon:
      if (token.kind != JsonTokenKind::colon) throw Error("missing : in object pair");
      levels_.back().expect = Expect::value;
      return;
    case Expect::separator:
      if (token.kind == end) return close();
      if (token.kind != JsonTokenKind::comma) {
        throw Error("expected separator in {}", in_object ? "dict" : "list");
      }
      levels_.back().expect = in_object ? Expect::key : Expect::value;
      return;
    case Expect::value_or_end:
    case Expect::key_or_end:
      if (token.kind == end) return close();
      [[fallthrough]];
    default:
      if (!open_or_scalar(token)) throw Error("expecting value");
  }
}

bool JsonParser::open_or_scalar(const JsonToken& token) {
  switch (token.kind) {
    case JsonTokenKind::open_brace:
      open(true);
      return true;
    case JsonTokenKind::open_bracket:
      open(false);
      return true;
    case JsonTokenKind::integer:
    case JsonTokenKind::real:
      complete(number(token));
      return true;
    case JsonTokenKind::keyword:
      complete(keyword(token.text));
      return true;
    case JsonTokenKind::string:
      complete(json::value(unquote(token.text)));
      return true;
    default:
      return false;
  }
}

void JsonParser::open(bool is_object) {
  levels_.push_back(
      Level{is_object, is_object ? Expect::key_or_end : Expect::value_or_end, {}, {}, {}});
}

void JsonParser::complete(json::value value) {
  if (levels_.empty()) {
    done_ = std::move(value);
    return;
  }
  Level& level = levels_.back();
  if (!level.is_object) {
    level.array.push_back(std::move(value));
    level.expect = Expect::separator;
  } else if (level.expect == Expect::value) {
    if (!level.object.emplace(level.key, std::move(value)).second) throw Error("duplicate key");
    level.expect = Expect::separator;
  } else {
    const json::string* key = value.if_string();
    if (!key) throw Error("key is not a string in object");
    level.key.assign(key->data(), key->size());
    level.expect = Expect::colon;
  }
}

void JsonParser::close() {
  Level level = std::move(levels_.back());
  levels_.pop_back();
  if (level.is_object) {
    complete(std::move(level.object));
  } else {
    complete(std::move(level.array));
  }
}

void JsonParser::fail(std::string text) {
  if (failed_) return;
  failed_ = true;
  error_ = std::move(text);
  levels_.clear();
}

JsonParser::Item JsonParser::take() {
  Item item = failed_ || !done_ ? Item(parse_error(error_)) : Item(std::move(*done_));
  reset();
  return item;
}

void JsonParser::reset() {
  levels_.clear();
  done_.reset();
  error_.clear();
  failed_ = false;
  braces_ = brackets_ = 0;
  bytes_ = tokens_ = 0;
}

json::value parse_json(std::string_view text) {
  JsonParser parser;
  auto first = parser.next(text);
  if (!first) first = parser.finish();
  if (!first) throw Error("Expecting a JSON value");
  if (auto* error = std::get_if<Error>(&*first)) throw std::move(*error);
  if (parser.next(text) || parser.finish()) throw Error("Expecting at most one JSON value");
  return std::move(std::get<json::value>(*first));
}

}  // namespace strata::qapi
