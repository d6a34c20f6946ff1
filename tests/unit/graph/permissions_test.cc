// SPDX-License-Identifier: GPL-2.0-or-later
#include <catch2/catch.hpp>

#include "block/graph/activity.h"
#include "block/graph/plan.h"
#include "block/graph/query.h"
#include "tests/unit/support/memory_driver.h"

using namespace strata;
using namespace strata::test;

namespace {

struct Users : Fixture {
  NodePtr file = open_memory("f");
  NodePtr raw = open_raw("r", "f");
  Backend one{layer, "one"};
  Backend two{layer};

  ~Users() {
    for (Backend* user : {&one, &two}) {
      if (user->is_attached()) run(user->close(loop));
    }
  }
};

constexpr Permissions kWriteAlone{{Permission::consistent_read, Permission::write},
                                  {Permission::consistent_read}};
constexpr Permissions kRead{{Permission::consistent_read}, kAllPermissions};

}  // namespace

TEST_CASE("a conflict names both users, the node and the permission") {
  Users f;
  f.one.attach(f.loop, f.raw, kWriteAlone);
  try {
    f.two.attach(f.loop, f.raw, {{Permission::write}, kAllPermissions});
    FAIL("attached");
  } catch (const Error& error) {
    CHECK(error.text() ==
          "Permission conflict on node 'r': permissions 'write' are both required by an unnamed "
          "block device (uses node 'r' as 'root' child) and unshared by block device 'one' (uses "
          "node 'r' as 'root' child).");
  }
  CHECK_FALSE(f.two.is_attached());
  CHECK(f.raw->parents().size() == 1);
}

TEST_CASE("what the users of a filter need reaches the node below") {
  Users f;
  f.one.attach(f.loop, f.raw, kWriteAlone);
  CHECK(f.file->cumulative_permissions().needed ==
        PermissionSet{Permission::consistent_read, Permission::write});
  CHECK_THROWS_AS(f.two.attach(f.loop, f.file, {{Permission::write}, kAllPermissions}), Error);
  f.run(f.one.close(f.loop));
  CHECK(f.file->cumulative_permissions().needed.empty());
  CHECK_NOTHROW(f.two.attach(f.loop, f.file, {{Permission::write}, kAllPermissions}));
}

TEST_CASE("a plan that is not committed leaves the graph as it was") {
  Users f;
  f.one.attach(f.loop, f.raw, kRead);
  NodePtr other = f.open_memory("other");
  {
    GraphPlan plan(f.loop);
    plan.set_child(f.one.root(), other);
    plan.set_permissions(f.one.root(), kWriteAlone);
    plan.prepare();
    CHECK(&f.one.node() == other.get());
  }
  CHECK(&f.one.node() == f.raw.get());
  CHECK(other->parents().empty());
  CHECK(f.file->cumulative_permissions().needed == PermissionSet{Permission::consistent_read});
}

TEST_CASE("an edge that is taken out comes back where it was if the plan is not committed") {
  Users f;
  {
    GraphPlan plan(f.loop);
    plan.remove_child(*f.raw->child("file"));
    CHECK(f.raw->children().empty());
  }
  REQUIRE(f.raw->child("file") != nullptr);
  CHECK(&f.raw->child("file")->node() == f.file.get());
}

TEST_CASE("a read-only node has no writers") {
  Fixture f;
  qapi::BlockdevOptions options;
  options.select(qapi::BlockdevDriver::null_co);
  options.read_only = true;
  NodePtr node = f.open(options);
  Backend user(f.layer);
  try {
    user.attach(f.loop, node, kReadWrite);
    FAIL("attached");
  } catch (const Error& error) {
    CHECK(error.text() == "Block node is read-only");
  }
}

TEST_CASE("writing without resizing needs whole units") {
  Fixture f;
  f.behaviour.limits.request_alignment = 4096;
  NodePtr node = f.open_memory("a", 4096 + 512);
  Backend user(f.layer);
  CHECK_THROWS_AS(user.attach(f.loop, node, {{Permission::write}, kAllPermissions}), Error);
  user.attach(f.loop, node, kReadWrite);
  f.run(user.close(f.loop));
}

TEST_CASE("an inactive node is not written and not left to unwilling users") {
  Users f;
  f.one.attach(f.loop, f.raw, kReadWrite);
  CHECK_THROWS_AS(f.run(set_active(f.loop, *f.raw, false)), Error);
  CHECK_THROWS_AS(f.run(set_active(f.loop, *f.file, false)), Error);  // has an active parent
  f.one.allow_inactive(true);
  f.run(set_active(f.loop, *f.raw, false));
  CHECK(f.file->io().inactive);  // nobody active uses it
  char byte = 1;
  CHECK(f.run(f.one.pwritev(0, IoVector::buffer(&byte, 1))).error_number() == EPERM);
  CHECK(f.run(f.one.preadv(0, IoVector::buffer(&byte, 1))).ok());
  f.run(set_active(f.loop, *f.raw, true));
  CHECK_FALSE(f.file->io().inactive);
  CHECK(f.run(f.one.pwritev(0, IoVector::buffer(&byte, 1))).ok());
}

TEST_CASE("the graph is told the latest first, users included") {
  Users f;
  f.one.attach(f.loop, f.raw, kRead);
  qapi::XDbgBlockGraph graph = describe_graph(f.layer);
  REQUIRE(graph.nodes.size() == 3);
  CHECK(graph.nodes[0].name == "r");
  CHECK(graph.nodes[1].name == "f");
  CHECK(graph.nodes[2].name == "one");
  CHECK(graph.nodes[2].id == 1);
  REQUIRE(graph.edges.size() == 2);
  CHECK(graph.edges[0].name == "file");
  CHECK(graph.edges[1].perm == std::vector{qapi::BlockPermission::consistent_read});
}
