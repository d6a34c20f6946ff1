// SPDX-License-Identifier: GPL-2.0-or-later
#include <catch2/catch.hpp>

#include "block/graph/reopen.h"
#include "tests/unit/support/memory_driver.h"

using namespace strata;
using namespace strata::test;

namespace {

struct Windows : Fixture {
  NodePtr file = open_memory("f");
  NodePtr other = open_memory("g", 1 << 19);
  NodePtr raw = open_raw("r", "f");

  qapi::BlockdevOptions options(const Node& node, const std::string& child, int64_t offset = 0) {
    qapi::BlockdevOptions options;
    options.select(qapi::BlockdevDriver::raw);
    options.node_name = node.name();
    options.get_if<qapi::BlockdevOptionsRaw>()->file = child;
    if (offset != 0) options.get_if<qapi::BlockdevOptionsRaw>()->offset = offset;
    return options;
  }

  std::string reopen(std::vector<NewOptions> nodes) {
    try {
      run(reopen_nodes(loop, layer, std::move(nodes)));
    } catch (const Error& error) {
      return error.text();
    }
    return "";
  }
};

}  // namespace

TEST_CASE("a window moves, and its user sees another size") {
  Windows f;
  Backend user(f.layer);
  user.attach(f.loop, f.raw, kReadWrite);
  CHECK(f.reopen({{f.raw, f.options(*f.raw, "f", 4096)}}) == "");
  CHECK(f.raw->length() == (1 << 20) - 4096);
  std::array<std::byte, 512> bytes{};
  bytes.fill(std::byte{7});
  REQUIRE(f.run(user.pwritev(0, IoVector::buffer(bytes.data(), bytes.size()))).ok());
  CHECK(f.data_of(*f.file)[4096] == std::byte{7});
  CHECK(f.reopen({{f.raw, f.options(*f.raw, "f")}}) == "");
  CHECK(f.raw->length() == 1 << 20);
  f.run(user.close(f.loop));
}

TEST_CASE("of several nodes all change or none") {
  Windows f;
  NodePtr second = f.open_raw("s", "g");
  std::vector<NewOptions> both;
  both.push_back({f.raw, f.options(*f.raw, "f", 512)});
  both.push_back({second, f.options(*second, "g", 1 << 20)});
  CHECK(f.reopen(std::move(both)) ==
        "Offset (1048576) cannot be greater than size of the containing file (524288)");
  CHECK(f.raw->length() == 1 << 20);
  CHECK(f.raw->explicit_options()->get_if<qapi::BlockdevOptionsRaw>()->offset == std::nullopt);
  CHECK(f.raw->child("file")->has_role(ChildRole::filtered));
}

TEST_CASE("a child is replaced by name, but not by what stands above") {
  Windows f;
  NodePtr above = f.open_raw("a", "r");
  CHECK(f.reopen({{f.raw, f.options(*f.raw, "a")}}) ==
        "Making 'a' a file child of 'r' would create a cycle");
  CHECK(&f.raw->child("file")->node() == f.file.get());
  CHECK(f.reopen({{f.raw, f.options(*f.raw, "g")}}) == "");
  CHECK(&f.raw->child("file")->node() == f.other.get());
  CHECK(f.raw->length() == 1 << 19);
  CHECK(f.file->parents().empty());
}

TEST_CASE("a writer keeps a node writable, and nothing has changed then") {
  Windows f;
  Backend user(f.layer);
  user.attach(f.loop, f.raw, kReadWrite);
  qapi::BlockdevOptions options = f.options(*f.raw, "g", 512);
  options.read_only = true;
  CHECK(f.reopen({{f.raw, std::move(options)}}) ==
        "Read-only block node 'r' cannot support read-write users");
  CHECK_FALSE(f.raw->is_read_only());
  CHECK(&f.raw->child("file")->node() == f.file.get());
  CHECK(f.raw->length() == 1 << 20);
  f.run(user.close(f.loop));
}

TEST_CASE("a driver that cannot says so, and so does an edge that must stay") {
  Windows f;
  qapi::BlockdevOptions options = *f.file->explicit_options();
  CHECK(f.reopen({{f.file, options}}) ==
        "Block format 'null-co' used by node 'f' does not support reopening files");
  f.raw->child("file")->set_frozen(true);
  CHECK(f.reopen({{f.raw, f.options(*f.raw, "g")}}) ==
        "Cannot change frozen 'file' link from 'r' to 'f'");
  f.raw->child("file")->set_frozen(false);
}

TEST_CASE("an error while flushing leaves the options as they are") {
  Windows f;
  Backend user(f.layer);
  user.attach(f.loop, f.raw, kReadWrite);
  char byte = 1;
  REQUIRE(f.run(user.pwritev(0, IoVector::buffer(&byte, 1))).ok());
  f.behaviour.fail_next = ENOSPC;
  CHECK(f.reopen({{f.raw, f.options(*f.raw, "f", 512)}}) ==
        "Error flushing drive: No space left on device");
  CHECK(f.raw->length() == 1 << 20);
  f.run(user.close(f.loop));
}
