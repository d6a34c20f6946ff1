// SPDX-License-Identifier: GPL-2.0-or-later
#include "qapi/runtime/visitor.h"

#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <catch2/catch.hpp>
#include <string>

#include "block/base/error.h"
#include "qapi/visit_blockdev.h"
#include "qapi/visit_strata.h"

using namespace strata;
using namespace strata::qapi;
namespace json = boost::json;

namespace {

BlockdevOptions read(std::string_view text) {
  return from_json<BlockdevOptions>(json::parse({text.data(), text.size()}));
}

std::string error_of(std::string_view text) {
  try {
    read(text);
  } catch (const Error& error) {
    return error.text();
  }
  return "";
}

std::string keyval_error_of(std::string_view text) {
  try {
    from_keyval<BlockdevOptions>(json::parse({text.data(), text.size()}));
  } catch (const Error& error) {
    return error.text();
  }
  return "";
}

}  // namespace

TEST_CASE("a union takes its branch from the discriminator") {
  const auto options =
      read(R"({"driver": "null-co", "node-name": "n", "size": 4096, "read-zeroes": true})");
  REQUIRE(options.driver == BlockdevDriver::null_co);
  REQUIRE(options.node_name == "n");
  const auto* null = options.get_if<BlockdevOptionsNull>();
  REQUIRE(null);
  CHECK(null->size == 4096);
  CHECK(null->read_zeroes == true);
  CHECK_FALSE(null->latency_ns.has_value());
}

TEST_CASE("an alternate takes its branch from the kind of JSON value") {
  const auto options = read(R"({"driver": "qcow2", "file": "f", "backing": null})");
  const auto* qcow2 = options.get_if<BlockdevOptionsQcow2>();
  REQUIRE(qcow2);
  REQUIRE(std::holds_alternative<std::string>(qcow2->file));
  CHECK(std::get<std::string>(qcow2->file) == "f");
  REQUIRE(qcow2->backing.has_value());
  CHECK(std::holds_alternative<Null>(*qcow2->backing));
}

TEST_CASE("what was read is written back the same") {
  const char* text = R"({"driver":"raw","node-name":"a","cache":{"direct":true},)"
                     R"("file":{"driver":"quorum","children":["x",{"driver":"null-aio"}],)"
                     R"("vote-threshold":1}})";
  const auto options = read(text);
  CHECK(json::serialize(to_json(options)) ==
        R"({"driver":"raw","node-name":"a","cache":{"direct":true},"file":{"driver":"quorum",)"
        R"("children":["x",{"driver":"null-aio"}],"vote-threshold":1}})");
  CHECK(options == read(text));
  auto copy = options;
  CHECK(copy == options);
  copy.get_if<BlockdevOptionsRaw>()->offset = 512;
  CHECK_FALSE(copy == options);
}

TEST_CASE("select() keeps tag and branch together") {
  BlockdevOptions options;
  options.select(BlockdevDriver::null_aio);
  REQUIRE(options.get_if<BlockdevOptionsNull>());
  options.get_if<BlockdevOptionsNull>()->size = 1;
  CHECK(json::serialize(to_json(options)) == R"({"driver":"null-aio","size":1})");
}

TEST_CASE("errors name the member by its path") {
  CHECK(error_of(R"({"node-name": "a"})") == "Parameter 'driver' is missing");
  CHECK(error_of(R"({"driver": "raw"})") == "Parameter 'file' is missing");
  CHECK(error_of(R"({"driver": "bogus"})") == "Parameter 'driver' does not accept value 'bogus'");
  CHECK(error_of(R"({"driver": "null-co", "node-name": 5})") ==
        "Invalid parameter type for 'node-name', expected: string");
  CHECK(error_of(R"({"driver": "null-co", "size": 1.5})") ==
        "Invalid parameter type for 'size', expected: integer");
  CHECK(error_of(R"({"driver": "null-co", "read-zeroes": 1})") ==
        "Invalid parameter type for 'read-zeroes', expected: boolean");
  CHECK(error_of(R"({"driver": "null-co", "cache": 1})") ==
        "Invalid parameter type for 'cache', expected: object");
  CHECK(error_of(R"({"driver": "raw", "file": 1})") ==
        "Invalid parameter type for 'file', expected: BlockdevRef");
  CHECK(error_of(R"({"driver": "raw", "file": {"driver": "raw", "file": {"driver": 1}}})") ==
        "Invalid parameter type for 'file.file.driver', expected: string");
  CHECK(error_of(R"({"driver": "raw", "file": {"driver": "null-co", "cache": {"x": 1}}})") ==
        "Parameter 'file.cache.x' is unexpected");
  CHECK(error_of(R"({"driver": "quorum", "vote-threshold": 1, "children": [1]})") ==
        "Invalid parameter type for 'null', expected: BlockdevRef");
  CHECK(error_of(R"({"driver": "quorum", "vote-threshold": 1,
                     "children": ["x", {"driver": "null-co", "size": []}]})") ==
        "Invalid parameter type for 'children[1].size', expected: integer");
  CHECK(error_of(R"({"driver": "qcow2", "file": "x", "backing": 1})") ==
        "Invalid parameter type for 'backing', expected: BlockdevRefOrNull");
}

TEST_CASE("integers are checked against the range of their type") {
  const std::string start = R"({"driver": "nbd", "server": {"type": "inet", "host": "h", )";
  CHECK(error_of(start + R"("port": "1", "to": 70000}})") == "Parameter 'to' expects uint16_t");
  CHECK(error_of(start + R"("port": "1", "to": -1}})") == "Parameter 'to' expects uint16_t");
  CHECK(error_of(start + R"("port": "1"}, "open-timeout": 4294967296})") ==
        "Parameter 'open-timeout' expects uint32_t");
  CHECK(error_of(R"({"driver": "null-co", "size": 9223372036854775808})") ==
        "Invalid parameter type for 'size', expected: integer");
  CHECK(error_of(start + R"("port": "1", "to": 65535}})").empty());
}

TEST_CASE("keyval scalars are text") {
  const auto options = from_keyval<BlockdevOptions>(
      json::parse(R"({"driver": "null-co", "size": "0x1000", "read-zeroes": "on"})"));
  CHECK(options.get_if<BlockdevOptionsNull>()->size == 4096);
  CHECK(options.get_if<BlockdevOptionsNull>()->read_zeroes == true);
  CHECK(keyval_error_of(R"({"driver": "null-co", "size": "foo"})") ==
        "Parameter 'size' expects integer");
  CHECK(keyval_error_of(R"({"driver": "null-co", "read-zeroes": "maybe"})") ==
        "Parameter 'read-zeroes' expects 'on' or 'off'");
  CHECK(keyval_error_of(R"({"driver": "null-co", "size": {"x": "1"}})") ==
        "Parameters 'size.*' are unexpected");
  CHECK(keyval_error_of(R"({"driver": "raw", "file": {"driver": "null-co", "size": {}}})") ==
        "Parameters 'file.size.*' are unexpected");
  CHECK(keyval_error_of(R"({"driver": "quorum", "vote-threshold": "1",
                            "children": [{"driver": "raw"}]})") ==
        "Parameter 'children.0.file' is missing");
  CHECK(keyval_error_of(R"({"driver": "nbd", "server": {"type": "inet", "host": "h", "port": "1",
                            "to": "99999"}})") == "Parameter 'to' expects uint16_t");
  CHECK(keyval_error_of(R"({"driver": "nbd", "server": {"type": "inet", "host": "h", "port": "1",
                            "to": "x"}})") == "Parameter 'server.to' expects integer");
}

TEST_CASE("enums know their names") {
  CHECK(to_string(BlockdevDriver::host_device) == "host_device");
  CHECK(to_string(BlockdevDetectZeroesOptions::unmap) == "unmap");
  CHECK(from_string<BlockdevDriver>("copy-on-read") == BlockdevDriver::copy_on_read);
  CHECK_FALSE(from_string<BlockdevDriver>("copy_on_read").has_value());
  std::size_t count = 0;
  for (const auto driver : values<BlockdevDriver>()) {
    CHECK(from_string<BlockdevDriver>(to_string(driver)) == driver);
    ++count;
  }
  CHECK(count == enum_info<BlockdevDriver>().values.size());
}

TEST_CASE("a configuration document is typed by the schema") {
  const auto config = from_json<StrataConfig>(json::parse(R"({
    "blockdev": [{"driver": "null-co", "node-name": "n"}],
    "export": [{"type": "nbd", "id": "e", "node-name": "n"}],
    "monitor": [{"chardev": "c", "mode": "control"}], "daemonize": false})"));
  REQUIRE(config.blockdev.has_value());
  CHECK(config.blockdev->front().driver == BlockdevDriver::null_co);
  CHECK(config.export_->front().type == BlockExportType::nbd);
  CHECK(config.daemonize == false);
}
