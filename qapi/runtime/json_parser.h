// SPDX-License-Identifier: GPL-2.0-or-later
//
// JSON values out of a stream of bytes, as the QMP socket needs them: values follow one another
// with or without space, chunks end anywhere, what is malformed yields an error and reading goes
// on.
//
//   std::string_view input = chunk;
//   while (auto item = parser.next(input)) { ... }      // input is what was not looked at yet
//
// Numbers are int64, else uint64, else double. A string holds U+0000 as the bytes C0 80, so that no
// text is ever cut short by it. Memory stays within the limits whatever is sent.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "block/base/error.h"
#include "qapi/runtime/json_lexer.h"

namespace strata::qapi {

struct JsonLimits {
  std::size_t nesting = 1024;
  std::size_t bytes = 64 << 20;  // of one value, white space not counted
  std::size_t tokens = 2 << 20;  // of one value
};

class JsonParser {
 public:
  using Item = std::variant<boost::json::value, Error>;

  explicit JsonParser(JsonLimits limits = {}) : limits_(limits), lexer_(limits.bytes) {}

  // Takes bytes off the front of `input` until a value or an error is complete; none when the
  // input ran out. Call again with the next chunk.
  std::optional<Item> next(std::string_view& input);
  // The stream has ended: what is still open is an error ("premature EOI").
  std::optional<Item> finish();

 private:
  enum class Expect : std::uint8_t { value, value_or_end, key, key_or_end, colon, separator };
  struct Level {
    bool is_object;
    Expect expect;
    std::string key;
    boost::json::object object;
    boost::json::array array;
  };

  std::optional<Item> accept(JsonToken&& token);
  std::optional<Item> over_limit(const JsonToken& token);
  void structure(const JsonToken& token);
  bool open_or_scalar(const JsonToken& token);
  void open(bool is_object);
  void complete(boost::json::value value);
  void close();
  void fail(std::string text);
  Item take();
  void reset();

  JsonLimits limits_;
  JsonLexer lexer_;
  std::vector<Level> levels_;
  std::optional<boost::json::value> done_;
  std::string error_;  // of the value under way; the rest of it is skipped
  bool failed_ = false;
  long braces_ = 0;
  long brackets_ = 0;
  std::size_t bytes_ = 0;
  std::size_t tokens_ = 0;
};

// Exactly one value, as on a command line. Throws Error.
boost::json::value parse_json(std::string_view text);

}  // namespace strata::qapi
