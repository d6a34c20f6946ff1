// SPDX-License-Identifier: GPL-2.0-or-later
//
// Everything the schema language can say, compiled from sample.json and put to use.
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <catch2/catch.hpp>
#include <string>

#include "block/base/error.h"
#include "qapi/commands_sample.h"
#include "qapi/events_sample.h"
#include "qapi/interface.h"
#include "qapi/runtime/introspect.h"
#include "qapi/runtime/json_parser.h"
#include "qapi/runtime/json_writer.h"
#include "qapi/visit_sample.h"

using namespace strata;
using namespace strata::qapi;

namespace {

template <class T>
std::string round_trip(std::string_view text) {
  try {
    const T value = from_json<T>(parse_json(text));
    const T copy = value;
    if (!(copy == value)) return "a copy differs";
    return write_json(to_json(copy));
  } catch (const Error& error) {
    return error.text();
  }
}

template <class T>
std::string keyval(std::string_view text) {
  try {
    return write_json(to_json(from_keyval<T>(parse_json(text))));
  } catch (const Error& error) {
    return error.text();
  }
}

}  // namespace

TEST_CASE("names become C++ identifiers") {
  CHECK(to_string(Keywords::default_) == "default");
  CHECK(to_string(Keywords::_4k) == "4k");
  CHECK(to_string(Keywords::co_await_) == "co-await");
  CHECK(from_string<Keywords>("new") == Keywords::new_);
}

TEST_CASE("values and branches whose condition does not hold are not there") {
  CHECK_FALSE(from_string<SampleKind>("dropped").has_value());
  CHECK(from_string<SampleKind>("kept") == SampleKind::kept);
  CHECK(round_trip<Sample>(R"({"kind": "kept", "count": 1})") == R"({"count": 1, "kind": "kept"})");
  CHECK(round_trip<Sample>(R"({"kind": "dropped"})") ==
        "Parameter 'kind' does not accept value 'dropped'");
  CHECK(round_trip<Sample>(R"({"kind": "other"})") == R"({"kind": "other"})");
  CHECK(round_trip<Sample>(R"({"kind": "with-count", "count": 1, "gone": "x"})") ==
        "Parameter 'gone' is unexpected");
}

TEST_CASE("a value without a branch has the common members only") {
  CHECK(round_trip<Sample>(R"({"kind": "plain", "name": "n"})") ==
        R"({"name": "n", "kind": "plain"})");
  CHECK(round_trip<Sample>(R"({"kind": "plain", "count": 1})") ==
        "Parameter 'count' is unexpected");
}

TEST_CASE("a branch may be a union itself") {
  const std::string text = R"({"kind": "nested", "inner-kind": "new", "count": 7})";
  CHECK(from_json<Sample>(parse_json(text)).get_if<Inner>()->get_if<Counted>()->count == 7);
  CHECK(parse_json(round_trip<Sample>(text)) == parse_json(text));
  CHECK(round_trip<Sample>(R"({"kind": "nested", "inner-kind": "4k", "count": 7})") ==
        "Parameter 'count' is unexpected");
  CHECK(round_trip<Sample>(R"({"kind": "nested"})") == "Parameter 'inner-kind' is missing");
}

TEST_CASE("every built-in type is read and written") {
  const std::string text =
      R"({"i8": -128, "i16": -32768, "i32": -2147483648, "i64": -9223372036854775808, "u8": 255,
          "u16": 65535, "u32": 4294967295, "u64": 18446744073709551615, "size": 4096,
          "number": 1.5, "bool": true, "str": "x", "any": {"a": [null]}, "null": null,
          "qtype": "qdict", "names": ["a"], "kinds": ["plain", "other"], "choice": 2.5,
          "choices": [true, "plain", [1, 2], {"count": 3}, null], "tree": {"forest": [{}, {}]}})";
  CHECK(parse_json(round_trip<Everything>(text)) == parse_json(text));
}

TEST_CASE("every integer type has its range") {
  for (const auto& [member, type, low, high] :
       {std::tuple("i8", "int8_t", "-129", "128"), std::tuple("i16", "int16_t", "-32769", "32768"),
        std::tuple("i32", "int32_t", "-2147483649", "2147483648"),
        std::tuple("u8", "uint8_t", "-1", "256"), std::tuple("u16", "uint16_t", "-1", "65536"),
        std::tuple("u32", "uint32_t", "-1", "4294967296")}) {
    for (const auto* value : {low, high}) {
      CHECK(round_trip<Everything>("{\"" + std::string(member) + "\": " + value + "}") ==
            "Parameter '" + std::string(member) + "' expects " + type);
    }
  }
  CHECK(round_trip<Everything>(R"({"u64": 18446744073709551616})") ==
        "Invalid parameter type for 'u64', expected: uint64");
  CHECK(round_trip<Everything>(R"({"u64": -1})") == R"({"u64": 18446744073709551615})");
  CHECK(round_trip<Everything>(R"({"null": 0})") ==
        "Invalid parameter type for 'null', expected: null");
}

TEST_CASE("sizes given as text may have a suffix") {
  const auto size = [](const char* text) {
    return keyval<Everything>("{\"size\": \"" + std::string(text) + "\"}");
  };
  CHECK(size("4096") == R"({"size": 4096})");
  CHECK(size("64k") == R"({"size": 65536})");
  CHECK(size("1.5M") == R"({"size": 1572864})");
  CHECK(size("0x10") == R"({"size": 16})");
  CHECK(size("15E") == R"({"size": 17293822569102704640})");
  for (const char* bad : {"", "x", "1.5", "16E", "-1", "1kk", "1 k", "99999999999999999999"}) {
    CHECK(size(bad) == "Parameter 'size' expects size");
  }
  CHECK(keyval<Everything>(R"({"number": "1.5", "bool": "yes", "null": ""})") ==
        R"({"bool": true, "number": 1.5, "null": null})");
  CHECK(keyval<Everything>(R"({"number": "x"})") ==
        "Invalid parameter type for 'number', expected: number");
}

TEST_CASE("descriptors say what the schema says") {
  CHECK(cmd::SampleBoxed::allow_oob);
  CHECK(cmd::SampleNamed::coroutine);
  CHECK(cmd::Sample::info().allow_preconfig);
  CHECK(cmd::Sample::info().features.size() == 1);
  static_assert(std::is_same_v<cmd::SampleBoxed::Arguments, Sample>);
  static_assert(std::is_same_v<cmd::SampleNamed::Return, void>);
  static_assert(std::is_same_v<cmd::Sample::Return, std::vector<Everything>>);
  CHECK(all_commands().size() == 3);
  CHECK(all_events().size() == 3);
}

TEST_CASE("events have the data they are declared with") {
  CHECK_FALSE(make_event(event::SamplePlain{}).data.has_value());
  event::SampleBoxed boxed;
  boxed.select(SampleKind::with_count);
  boxed.get_if<Counted>()->count = 3;
  CHECK(write_json(*make_event(boxed).data) == R"({"count": 3, "kind": "with-count"})");
  CHECK(write_json(*make_event(event::SampleData{.counted = {.count = 1}}).data) ==
        R"({"counted": {"count": 1}})");
}

TEST_CASE("introspection shows conditions, features and flattened bases") {
  const auto schema = introspect(all_commands(), all_events());
  std::string features;
  for (const auto& entry : schema) {
    const auto& object = entry.get_object();
    const auto* tag = object.if_contains("tag");
    if (object.contains("features")) features += write_json(object.at("features")) + " ";
    if (!tag || tag->as_string() != "kind") continue;
    CHECK(object.at("variants").as_array().size() == 5);
    CHECK(object.at("members").as_array().size() == 2);
  }
  CHECK(features == R"(["deprecated"] ["everything"] )");
}
