// SPDX-License-Identifier: GPL-2.0-or-later
//
// Results and texts were taken from qemu-storage-daemon --blockdev.
#include "qapi/runtime/keyval.h"

#include <boost/json/value.hpp>
#include <catch2/catch.hpp>
#include <string>

#include "block/base/error.h"
#include "qapi/runtime/json_writer.h"

using namespace strata;
using namespace strata::qapi;

namespace {

std::string parse(std::string_view text) {
  try {
    const auto result = parse_keyval(text, "driver");
    return write_json(result.value) + (result.help ? " help" : "");
  } catch (const Error& error) {
    return error.text();
  }
}

}  // namespace

TEST_CASE("keys nest at dots and lists have numbers for keys") {
  CHECK(parse("a.b.c=1,a.b.d=2") == R"({"a": {"b": {"d": "2", "c": "1"}}})");
  CHECK(parse("a.0=x,a.1=y") == R"({"a": ["x", "y"]})");
  CHECK(parse("a.0.0=1,a.0.1=2,a.1=3") == R"({"a": [["1", "2"], "3"]})");
  CHECK(parse("a.00=1") == R"({"a": ["1"]})");
  CHECK(parse("") == "{}");
}

TEST_CASE("the later of two equal keys wins") {
  CHECK(parse("a=1,a=2") == R"({"a": "2"})");
}

TEST_CASE("a doubled comma is a comma in a value") {
  CHECK(parse("a=x,,y,b=,,") == R"({"a": "x,y", "b": ","})");
  CHECK(parse("a=1,") == R"({"a": "1"})");
  CHECK(parse("a=b=c") == R"({"a": "b=c"})");
}

TEST_CASE("the first parameter may leave out its key") {
  CHECK(parse("null-co") == R"({"driver": "null-co"})");
  CHECK(parse("null-co,x") == "Expected '=' after parameter 'x'");
  CHECK(parse("null-co,,x=y") == "Invalid parameter ''");
}

TEST_CASE("help may stand anywhere") {
  CHECK(parse("help") == "{} help");
  CHECK(parse("?") == "{} help");
  CHECK(parse("null-co,help") == R"({"driver": "null-co"} help)");
  CHECK(parse("help=on") == R"({"help": "on"})");
  CHECK(parse("help,x") == "Expected '=' after parameter 'x'");
}

TEST_CASE("keys that are no names are refused") {
  for (const char* key : {"", "a..b", ".b", "a.", "a b", "1", "a.1b", "a.-1", "_x", "a.?"}) {
    CHECK(parse("driver=x," + std::string(key) + "=1") ==
          "Invalid parameter '" + std::string(key) + "'");
  }
  CHECK(parse("a b") == R"({"driver": "a b"})");
  CHECK(parse("x=y,a b") == "Invalid parameter 'a b'");
  CHECK(parse("__org.foo_x.y=1") == R"({"__org.foo_x": {"y": "1"}})");
}

TEST_CASE("one key cannot be a scalar, an object and a list") {
  CHECK(parse("a=1,a.b=2") == "Parameters 'a.*' used inconsistently");
  CHECK(parse("a.b=2,a=1") == "Parameters 'a.*' used inconsistently");
  CHECK(parse("a.b.c=2,a.b=1") == "Parameters 'a.b.*' used inconsistently");
  CHECK(parse("a.0=1,a.x=1") == "Parameters 'a.*' used inconsistently");
  CHECK(parse("a.0=1,a.2=1") == "Parameter 'a.1' missing");
  CHECK(parse("a.0.b=1,a.2.b=1") == "Parameter 'a.1' missing");
  CHECK(parse("a.99999999999999999999=1") == "Parameter 'a.0' missing");
}

TEST_CASE("length and depth of keys are limited") {
  const std::string longest(127, 'k');
  CHECK(parse(longest + "=1") == "{\"" + longest + "\": \"1\"}");
  CHECK(parse(longest + "k=1") == "Parameter '" + longest + "k' is too long");
  CHECK(parse("a." + longest + "k.b=1") == "Parameter fragment '" + longest + "k' is too long");
  std::string deep = "a";
  for (int i = 0; i < 10000; ++i) deep += ".a";
  CHECK(parse(deep + "=1") == "Parameter '" + deep + "' is nested too deeply");
}

TEST_CASE("an argument that starts with a brace is JSON") {
  const auto option = parse_option(R"({"driver": "raw"})", "driver");
  CHECK(option.is_json);
  CHECK(write_json(option.value) == R"({"driver": "raw"})");
  CHECK_FALSE(parse_option("raw", "driver").is_json);
}
