// SPDX-License-Identifier: GPL-2.0-or-later
#include <catch2/catch.hpp>

#include "tests/unit/support/memory_driver.h"

using namespace strata;
using namespace strata::test;
using Catch::Matchers::Equals;

namespace {

std::string text_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.text();
  }
  return "no error";
}

}  // namespace

TEST_CASE("a node opens by its options and goes with its last holder") {
  Fixture f;
  NodePtr node = f.open_memory("a", 1000);
  CHECK(node->length() == 1024);  // whole sectors
  CHECK(f.layer.find_node("a") == node);
  node.reset();
  CHECK(f.layer.nodes().empty());
}

TEST_CASE("a name is taken once, and is well-formed") {
  Fixture f;
  NodePtr node = f.open_memory("a");
  CHECK(text_of([&] { f.open_memory("a"); }) == "Duplicate nodes with node-name='a'");
  CHECK(text_of([&] { f.open_memory("1a"); }) == "Invalid node-name: '1a'");
  CHECK(text_of([&] { f.open_memory(std::string(32, 'x')); }) == "Node name too long");
}

TEST_CASE("a driver that is not built is unknown") {
  Fixture f;
  qapi::BlockdevOptions options;
  options.select(qapi::BlockdevDriver::rbd);
  CHECK(text_of([&] { f.open(options); }) == "Unknown driver 'rbd'");
}

TEST_CASE("an inline child gets a name of its own and goes with its parent") {
  Fixture f;
  qapi::BlockdevOptions file;
  file.select(qapi::BlockdevDriver::null_co);
  qapi::BlockdevOptions options;
  options.select(qapi::BlockdevDriver::raw);
  options.node_name = "r";
  options.get_if<qapi::BlockdevOptionsRaw>()->file = qapi::Box<qapi::BlockdevOptions>(file);
  NodePtr node = f.open(options);
  REQUIRE(f.layer.nodes().size() == 2);
  CHECK(node->child("file")->node().name().starts_with("#block"));
  node.reset();
  CHECK(f.layer.nodes().empty());
}

TEST_CASE("an open that fails leaves nothing behind") {
  Fixture f;
  NodePtr file = f.open_memory("f");
  qapi::BlockdevOptions options;
  options.select(qapi::BlockdevDriver::raw);
  options.node_name = "r";
  options.get_if<qapi::BlockdevOptionsRaw>()->file = "f";
  options.get_if<qapi::BlockdevOptionsRaw>()->offset = 1 << 21;
  CHECK(text_of([&] { f.open(options); }) ==
        "Offset (2097152) cannot be greater than size of the containing file (1048576)");
  CHECK(f.layer.nodes().size() == 1);
  CHECK(file->parents().empty());
}

TEST_CASE("a reference to a node that is not there names it") {
  Fixture f;
  CHECK(text_of([&] { f.open_raw("r", "nowhere"); }) ==
        "Cannot find device='nowhere' nor node-name='nowhere'");
}

TEST_CASE("a child inherits cache mode and read-only, and a backing file is only read") {
  NodeOptions parent;
  parent.cache_direct = true;
  parent.auto_read_only = true;
  NodeOptions file = effective_child_options({}, parent, kFilterRoles);
  CHECK(file.cache_direct);
  CHECK(file.discard_unmap);
  CHECK(file.auto_read_only);
  CHECK_FALSE(file.read_only);
  NodeOptions backing = effective_child_options({}, parent, ChildRole::cow);
  CHECK(backing.read_only);
  CHECK_FALSE(backing.auto_read_only);
}
