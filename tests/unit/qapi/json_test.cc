// SPDX-License-Identifier: GPL-2.0-or-later
//
// The parse errors and the order of members below were taken from qemu-storage-daemon.
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "block/base/error.h"
#include "qapi/runtime/json_parser.h"
#include "qapi/runtime/json_writer.h"

using namespace strata;
using namespace strata::qapi;
using Items = std::vector<std::string>;

namespace {

std::string describe(const JsonParser::Item& item) {
  if (const auto* error = std::get_if<Error>(&item)) return "error: " + error->text();
  return write_json(std::get<boost::json::value>(item));
}

// What comes out of `text`, fed in chunks of `chunk` bytes.
Items parse(std::string_view text, std::size_t chunk = 1, JsonLimits limits = {}) {
  JsonParser parser(limits);
  Items items;
  while (!text.empty()) {
    std::string_view part = text.substr(0, chunk);
    text.remove_prefix(part.size());
    while (auto item = parser.next(part)) items.push_back(describe(*item));
  }
  return items;
}

Items errors(std::initializer_list<const char*> texts) {
  Items items;
  for (const char* text : texts) items.push_back(std::string("error: JSON parse error, ") + text);
  return items;
}

std::string echo(std::string_view text) {
  return write_json(parse_json(text));
}

std::string error_of(std::string_view text) {
  try {
    parse_json(text);
  } catch (const Error& error) {
    return error.text();
  }
  return "";
}

}  // namespace

TEST_CASE("values follow one another whatever the chunks") {
  const std::string text = "{\"a\": [1, 'x']} 12 true\"s\"[]\n{}";
  const Items expected = {R"({"a": [1, "x"]})", "12", "true", R"("s")", "[]", "{}"};
  for (std::size_t chunk = 1; chunk <= text.size(); ++chunk) CHECK(parse(text, chunk) == expected);
}

TEST_CASE("malformed structure is reported where its brackets balance") {
  CHECK(parse("}") == errors({"expecting value"}));
  CHECK(parse("{\"a\" 1}") == errors({"missing : in object pair"}));
  CHECK(parse("{\"a\":}") == errors({"expecting value"}));
  CHECK(parse("{1:2}") == errors({"key is not a string in object"}));
  CHECK(parse("[1 2]") == errors({"expected separator in list"}));
  CHECK(parse("{\"a\":1 \"b\":2}") == errors({"expected separator in dict"}));
  CHECK(parse("{\"a\":1,\"a\":2}") == errors({"duplicate key"}));
  CHECK(parse("[1,]") == errors({"expecting value"}));
  CHECK(parse("{]") == errors({"expecting value"}));
  CHECK(parse("[1}]") == errors({"expected separator in list", "expecting value"}));
  CHECK(parse("{,").empty());
  CHECK(parse("{\"a\":[}]}") == errors({"expecting value", "expecting value"}));
}

TEST_CASE("what is no token is reported at once and skipped") {
  CHECK(parse("@@@ {}") == Items{"error: JSON parse error, stray '@'", "{}"});
  CHECK(parse("{\"a\":01}") == errors({"stray '01'", "expecting value"}));
  CHECK(parse("- ") == errors({"stray '- '"}));
  CHECK(parse("{\"a\":1.}") == errors({"stray '1.}'"}));
  CHECK(parse("\"a\nb\" ") == errors({"stray '\"a\n'"}));
  CHECK(parse(std::string_view("\0{}", 3)) == Items{"error: JSON parse error, stray ''", "{}"});
  CHECK(parse("foo bar ") == errors({"invalid keyword 'foo'", "invalid keyword 'bar'"}));
  CHECK(parse("0x10 ") == Items{"0", "error: JSON parse error, invalid keyword 'x'", "10"});
  CHECK(parse("%d ") == errors({"stray '%'"}));
}

TEST_CASE("strings are checked") {
  CHECK(parse("\"\\q\"") == errors({"invalid escape sequence in string"}));
  CHECK(parse("\"\\u12g4\"") == errors({"\\u12g4 is not a valid Unicode character"}));
  CHECK(parse("\"\\u\"") == errors({"\\u\" is not a valid Unicode character"}));
  CHECK(parse("\"\\ud800x\"") == errors({"\\ud800 is not a valid Unicode character"}));
  CHECK(parse("\"\\udc00\"") == errors({"\\udc00 is not a valid Unicode character"}));
  CHECK(parse("\"\\ufffe\"") == errors({"\\ufffe is not a valid Unicode character"}));
  CHECK(parse("\"\xed\xa0\x80\"") == errors({"invalid UTF-8 sequence in string"}));
  CHECK(parse("\"ab\xc3\"") == errors({"invalid UTF-8 sequence in string"}));
  CHECK(echo("'single \\' \"quote\"'") == R"("single ' \"quote\"")");
  CHECK(echo("\"\\u00e9\\ud83d\\ude00\xc3\xa9 \\t\\b\\f\\r\\n\\\"\\\\\\/\x7f<>&\\u0001\"") ==
        R"("\u00E9\uD83D\uDE00\u00E9 \t\b\f\r\n\"\\/\u007F<>&\u0001")");
  CHECK(echo("\"\\u0000\"") == R"("\u0000")");
}

TEST_CASE("numbers are int64, else uint64, else double") {
  CHECK(echo("-9223372036854775808") == "-9223372036854775808");
  CHECK(echo("18446744073709551615") == "18446744073709551615");
  CHECK(parse_json("18446744073709551615").is_uint64());
  CHECK(echo("18446744073709551616") == "1.8446744073709552e+19");
  CHECK(echo("-9223372036854775809") == "-9.2233720368547758e+18");
  CHECK(echo("1.0") == "1");
  CHECK(parse_json("1.0").is_double());
  CHECK(echo("0.1") == "0.10000000000000001");
  CHECK(echo("1e300") == "1.0000000000000001e+300");
  CHECK(echo("1.5e-7") == "1.4999999999999999e-07");
  CHECK(echo("-0.0") == "-0");
  CHECK(echo("1e400") == "inf");
}

TEST_CASE("nesting, size and number of tokens are limited") {
  const auto nested = [](int depth) {
    return std::string(static_cast<std::size_t>(depth), '[') +
           std::string(static_cast<std::size_t>(depth), ']');
  };
  CHECK(parse(nested(1024), 4096).at(0) == nested(1024));
  CHECK(parse(std::string(1025, '['), 4096) == Items{"error: JSON nesting depth limit exceeded"});
  const JsonLimits small{.nesting = 4, .bytes = 20, .tokens = 8};
  CHECK(parse("\"0123456789012345678901234567890\"\n{}", 64, small).at(0) ==
        "error: JSON token size limit exceeded");
  CHECK(parse("[12345, 12345, 12345, 12345, ", 64, small).at(0) ==
        "error: JSON token size limit exceeded");
  CHECK(parse("[1,2,3,4,5", 64, small).at(0) == "error: JSON token count limit exceeded");
}

TEST_CASE("one value on a command line") {
  CHECK(error_of("{\"driver\":") == "JSON parse error, premature EOI");
  CHECK(error_of("{\"driver\":\"null-co") == "JSON parse error, stray '\"null-co'");
  CHECK(error_of("{\"driver\":nul") == "JSON parse error, invalid keyword 'nul'");
  CHECK(error_of("{} x") == "Expecting at most one JSON value");
  CHECK(error_of("{}}") == "Expecting at most one JSON value");
  CHECK(error_of(" ") == "Expecting a JSON value");
  CHECK(echo("{} ") == "{}");
}

TEST_CASE("members are written in the order of QEMU's dictionaries") {
  CHECK(echo(R"({"b":1,"a":2,"aa":3,"zz":4,"q":5,"id":6,"class":7,"desc":8})") ==
        R"({"aa": 3, "class": 7, "a": 2, "zz": 4, "b": 1, "desc": 8, "q": 5, "id": 6})");
  CHECK(echo(R"({"error":{"desc":"d","class":"c"},"id":1})") ==
        R"({"id": 1, "error": {"class": "c", "desc": "d"}})");
}

TEST_CASE("within a bucket what was inserted later comes first") {
  // Found by search: two keys of one bucket.
  std::string first = "k0";
  std::string second;
  for (int i = 1; second.empty(); ++i) {
    const std::string key = "k" + std::to_string(i);
    if (dictionary_bucket(key) == dictionary_bucket(first)) second = key;
  }
  boost::json::object object;
  object.emplace(first, 1);
  object.emplace(second, 2);
  CHECK(write_json(object) == "{\"" + second + "\": 2, \"" + first + "\": 1}");
}

TEST_CASE("pretty form has one member a line") {
  CHECK(write_json(parse_json(R"({"return": [], "id": [1, {}]})"), JsonStyle::pretty) ==
        "{\n    \"return\": [\n    ],\n    \"id\": [\n        1,\n        {\n        }\n    ]\n}");
}
