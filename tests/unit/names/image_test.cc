// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/names/image.h"

#include <boost/json.hpp>

#include <catch2/catch.hpp>

#include "block/drivers/builtin.h"
#include "block/names/legacy_options.h"
#include "block/names/options.h"
#include "tests/unit/support/memory_driver.h"

using namespace strata;
using boost::json::object;

namespace {

boost::json::value json(std::string_view text) {
  return boost::json::parse(text);
}

// A layer with all drivers, in which nothing is opened.
struct Names {
  boost::json::value resolve(ImageName name) const { return resolve_image_name(layer, name); }
  boost::json::value resolve(const char* filename) const {
    return resolve({.filename = filename, .format = {}, .options = {}});
  }
  std::string refusal(ImageName name) const {
    try {
      (void)read_options(layer, resolve_image_name(layer, name));
    } catch (const Error& error) {
      return error.text();
    }
    return "none";
  }
  std::string refusal(const std::string& filename) const {
    return refusal({.filename = filename, .format = {}, .options = {}});
  }

  AioContext context{"test"};
  MainLoop loop{context};
  BlockLayer layer{loop, builtin_drivers(), [](std::string_view, object) {}};
};

object tree(std::initializer_list<std::pair<const char*, const char*>> options) {
  object result;
  for (auto [key, value] : options) set_option(result, key, value);
  return result;
}

}  // namespace

TEST_CASE("dotted keys make a tree, and what is in the way of one is refused") {
  CHECK(boost::json::value(tree({{"a", "1"}, {"b.c", "2"}, {"b.d.e", "3"}})) ==
        json(R"({"a": "1", "b": {"c": "2", "d": {"e": "3"}}})"));
  Names names;
  CHECK_THROWS_AS(read_options(names.layer, tree({{"a", "1"}, {"a.b", "2"}})), Error);
  CHECK_THROWS_AS(read_options(names.layer, tree({{"a.b", "2"}, {"a", "1"}})), Error);
  std::string deep = "k";
  for (int i = 0; i < 200; ++i) deep += ".k";
  CHECK(tree({{deep.c_str(), "1"}}).size() == 1);
}

TEST_CASE("JSON becomes the same tree: scalars as text, dotted keys taken apart") {
  CHECK(boost::json::value(option_tree_of_json(
            json(R"({"a": true, "b": 7, "c.d": "x", "c": {"e": null}, "l": [1, {"m": false}]})")
                .as_object())) ==
        json(R"({"a": "on", "b": "7", "c": {"d": "x", "e": null}, "l": ["1", {"m": "off"}]})"));
}

TEST_CASE("defaults fill what is not there, at every level") {
  object options = tree({{"a", "1"}, {"b.c", "2"}});
  merge_options(options, tree({{"a", "9"}, {"b.c", "9"}, {"b.d", "3"}, {"e", "4"}}));
  CHECK(boost::json::value(options) == json(R"({"a": "1", "b": {"c": "2", "d": "3"}, "e": "4"})"));
}

TEST_CASE("a file name alone leaves the format open") {
  Names names;
  CHECK(names.resolve("a.img") == json(R"({"file": {"driver": "file", "filename": "a.img"}})"));
  CHECK(names.resolve({.filename = "a.img", .format = "qcow2", .options = {}}) ==
        json(R"({"driver": "qcow2", "file": {"driver": "file", "filename": "a.img"}})"));
  CHECK(names.resolve({.filename = "a.img", .format = "file", .options = {}}) ==
        json(R"({"driver": "file", "filename": "a.img"})"));
}

TEST_CASE("options go above what the name says") {
  Names names;
  CHECK(names.resolve({.filename = "a",
                       .format = {},
                       .options = tree({{"driver", "qcow2"}, {"file.locking", "off"}})}) ==
        json(R"({"driver": "qcow2", "file": {"locking": "off", "driver": "file",
                                             "filename": "a"}})"));
  CHECK(names.resolve({.filename = {}, .format = {}, .options = tree({{"file.filename", "a"}})}) ==
        json(R"({"file": {"driver": "file", "filename": "a"}})"));
  // A protocol is read out of a name that somebody gave as such, not out of an option.
  CHECK(names.resolve(
            {.filename = {}, .format = {}, .options = tree({{"file.filename", "nbd:a"}})}) ==
        json(R"({"file": {"driver": "file", "filename": "nbd:a"}})"));
  // Through a filter, to the node that takes a name.
  CHECK(names.resolve({.filename = "a",
                       .format = {},
                       .options = tree({{"driver", "copy-on-read"}, {"file.driver", "qcow2"}})}) ==
        json(R"({"driver": "copy-on-read", "file": {"driver": "qcow2", "file":
                 {"driver": "file", "filename": "a"}}})"));
}

TEST_CASE("a JSON name is options") {
  Names names;
  CHECK(names.resolve(R"(json:{"driver": "raw", "file.filename": "a", "size": 512})") ==
        json(R"({"driver": "raw", "file": {"driver": "file", "filename": "a"}, "size": "512"})"));
  CHECK(names.resolve(R"(json:{"file": {"driver": "nbd", "host": "h"}})") ==
        json(R"({"file": {"driver": "nbd",
                          "server": {"type": "inet", "host": "h", "port": "10809"}}})"));
  CHECK(names.refusal("json:").starts_with("Could not parse the JSON options: "));
  CHECK(names.refusal("json:{").starts_with("Could not parse the JSON options: "));
  CHECK(names.refusal("json:[]") == "Invalid JSON object given");
  CHECK(names.refusal("json:{}") == "Must specify either driver or file");
}

TEST_CASE("hostile JSON names are refused in their own time") {
  Names names;
  std::string nested = "json:";
  for (int i = 0; i < 100000; ++i) nested += "{\"file\":";
  CHECK(names.refusal(nested).starts_with("Could not parse the JSON options: "));
  CHECK(names.refusal("json:" + std::string(1 << 20, '[')).starts_with("Could not parse"));
  CHECK(names.refusal("json:{\"driver\": \"\\u0000\"}").starts_with("Unknown driver"));
  CHECK(names.refusal("json:{\"driver\": 7}") == "Unknown driver '7'");
  CHECK(names.refusal("json:{\"driver\": {}}") == "Unknown driver ''");
}

TEST_CASE("options that do not belong together are refused in QEMU's words") {
  Names names;
  auto refusal = [&](std::initializer_list<std::pair<const char*, const char*>> options) {
    return names.refusal({.filename = {}, .format = {}, .options = tree(options)});
  };
  CHECK(refusal({}) == "Must specify either driver or file");
  CHECK(refusal({{"driver", "nosuch"}}) == "Unknown driver 'nosuch'");
  CHECK(refusal({{"driver", "raw"}}) == "A block device must be specified for \"file\"");
  CHECK(refusal({{"driver", "file"}}) == "The 'file' block driver requires a file name");
  CHECK(refusal({{"driver", "raw"}, {"file.filename", "a"}, {"foo", "x"}}) ==
        "Block format 'raw' does not support the option 'foo'");
  CHECK(refusal({{"driver", "raw"}, {"file.filename", "a"}, {"file.foo", "x"}}) ==
        "Block protocol 'file' doesn't support the option 'foo'");
  CHECK(refusal({{"driver", "raw"}, {"file.filename", "a"}, {"foo.bar", "x"}}) ==
        "Block format 'raw' does not support the option 'foo.bar'");
  CHECK(refusal({{"driver", "raw"}, {"file.filename", "a"}, {"cache", "none"}}) ==
        "Block format 'raw' does not support the option 'cache'");
  CHECK(refusal({{"driver", "raw"}, {"file.driver", "raw"}}) ==
        "A block device must be specified for \"file\"");
  CHECK(refusal({{"driver", "blkdebug"}}) == "A block device must be specified for \"image\"");
  CHECK(refusal({{"filename", "a"}}) == "Must specify either driver or file");
  CHECK(refusal({{"driver", "raw"}, {"file.locking", "off"}}) ==
        "Must specify either driver or file");
  CHECK(refusal({{"driver", "null-co"}, {"discard", "maybe"}}) == "Invalid discard option");
  CHECK(refusal({{"driver", "null-co"}, {"size", "x"}}) ==
        "Parameter 'size' expects a non-negative number below 2^64");
  CHECK(refusal({{"driver", "null-co"}, {"size", "16E"}}) ==
        "Value '16E' is out of range for parameter 'size'");
  CHECK(refusal({{"driver", "null-co"}, {"size", "-1k"}}) ==
        "Parameter 'size' expects a non-negative number below 2^64");
  CHECK(refusal({{"driver", "null-co"}, {"latency-ns", "1k"}}) ==
        "Parameter 'latency-ns' expects a number");
  CHECK(refusal({{"driver", "nbd"}}) == "NBD server address missing");
  CHECK(refusal({{"driver", "nbd"}, {"port", "1"}}) == "NBD server address missing");
  CHECK(refusal({{"driver", "nbd"}, {"path", "/s"}, {"host", "h"}}) ==
        "path and host may not be used at the same time");
  CHECK(refusal({{"driver", "nbd"}, {"path", "/s"}, {"server.type", "unix"}}) ==
        "Cannot use 'server' and path/host/port at the same time");
}

TEST_CASE("sizes may have a suffix, lists are written by numbers") {
  Names names;
  qapi::BlockdevOptions raw = read_options(
      names.layer, tree({{"driver", "raw"}, {"size", "1M"}, {"offset", "4k"}, {"file", "node"}}));
  CHECK(raw.get_if<qapi::BlockdevOptionsRaw>()->size == 1 << 20);
  CHECK(raw.get_if<qapi::BlockdevOptionsRaw>()->offset == 4096);
  // At any level.
  CHECK_NOTHROW(read_options(
      names.layer, tree({{"driver", "raw"}, {"file.driver", "null-co"}, {"file.size", "1M"}})));
  qapi::BlockdevOptions rules =
      read_options(names.layer, tree({{"driver", "blkdebug"},
                                      {"image", "node"},
                                      {"inject-error.0.event", "none"},
                                      {"inject-error.1.event", "l2_load"}}));
  CHECK(rules.get_if<qapi::BlockdevOptionsBlkdebug>()->inject_error->size() == 2);
}

TEST_CASE("older names of an NBD server are understood at any level") {
  object options = tree({{"driver", "qcow2"},
                         {"backing.driver", "raw"},
                         {"backing.file.driver", "nbd"},
                         {"backing.file.path", "/s"}});
  modernise_options(options);
  CHECK(boost::json::value(options) == json(R"({"driver": "qcow2", "backing": {"driver": "raw",
      "file": {"driver": "nbd", "server": {"type": "unix", "path": "/s"}}}})"));
}

TEST_CASE("older words are understood at any level") {
  object options = tree({{"driver", "raw"},
                         {"discard", "on"},
                         {"file.driver", "file"},
                         {"file.discard", "off"},
                         {"backing", ""}});
  modernise_options(options);
  CHECK(boost::json::value(options) == json(R"({"driver": "raw", "discard": "unmap",
      "file": {"driver": "file", "discard": "ignore"}, "backing": null})"));
}

TEST_CASE("a format is guessed from the first bytes, and told where it is not built") {
  test::Fixture fixture;
  NodePtr node = fixture.open_memory("disk", 4096);
  auto guess = [&] { return fixture.run(guess_format(fixture.loop, fixture.layer, node)); };
  CHECK(guess() == "raw");
  std::memcpy(test::Fixture::data_of(*node).data(), "QFI\xfb\0\0\0\3", 8);
  CHECK_THROWS_WITH(guess(), "Image is in qcow2 format, which is not built");
  fixture.behaviour.fail_next = EIO;
  CHECK_THROWS_WITH(guess(), "Could not read image for determining its format: Input/output error");
}

TEST_CASE("an encrypted image says itself how, where only its key was named") {
  test::Fixture fixture;
  NodePtr node = fixture.open_memory("disk", 4096);
  auto named = [&](uint8_t method) {
    test::Fixture::data_of(*node)[35] = std::byte(method);
    object options = tree({{"driver", "qcow2"}, {"file", "disk"}, {"encrypt.key-secret", "s"}});
    REQUIRE(lacks_encryption_format(options));
    fixture.run(name_encryption(fixture.loop, fixture.layer, node, options));
    const boost::json::value* encrypt = options.if_contains("encrypt");
    return encrypt != nullptr ? std::string(encrypt->at("format").as_string()) : "none";
  };
  CHECK(named(0) == "none");
  CHECK(named(1) == "aes");
  CHECK(named(2) == "luks");
  CHECK_FALSE(lacks_encryption_format(tree({{"driver", "raw"}, {"encrypt.key-secret", "s"}})));
}
