// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/nbd/server.h"
#include "tests/unit/export_nbd/client.h"

using namespace strata;
using namespace strata::test;

namespace {

template <class T>
std::string refusal(NbdFixture& server, Task<T> task) {
  try {
    server.run(std::move(task));
  } catch (const Error& error) {
    return error.text();
  }
  return "no error";
}

}  // namespace

TEST_CASE("exports that cannot be are refused with QEMU's texts") {
  NbdFixture server;
  server.serve("disk");
  auto refused = [&](auto change) {
    qapi::BlockExportOptions options = server.options_for("disk", false);
    options.id = "new";
    options.get_if<qapi::BlockExportOptionsNbd>()->name = "new";
    change(options, *options.get_if<qapi::BlockExportOptionsNbd>());
    return refusal(server, server.registry.add(server.loop, std::move(options)));
  };
  CHECK(refused([](auto& o, auto&) { o.id = "#1"; }) == "Invalid block export id");
  CHECK(refused([](auto& o, auto&) { o.id = "disk"; }) ==
        "Block export id 'disk' is already in use");
  CHECK(refused([](auto& o, auto&) { o.node_name = "nope"; }) ==
        "Cannot find device='' nor node-name='nope'");
  CHECK(refused([](auto& o, auto&) { o.iothread.emplace(std::string("nope")); }) ==
        "iothread \"nope\" not found");
  CHECK(refused([](auto&, auto& n) { n.name = "disk"; }) ==
        "NBD server already has export named 'disk'");
  CHECK(refused([](auto&, auto& n) { n.name = std::string(4097, 'x'); }) ==
        "export name '" + std::string(4097, 'x') + "' too long");
  CHECK(refused([](auto&, auto& n) { n.bitmaps.emplace().emplace_back("b"); }) ==
        "Bitmap 'b' is not found");
  CHECK(refused([](auto&, auto&) {}) == "no error");
}

TEST_CASE("a server is started once and stopped once") {
  NbdFixture server;
  CHECK(refusal(server, server.service.start(server.loop, "", UnixAddress{}, {})) ==
        "NBD server already running");
  server.serve("disk");
  server.run(server.service.stop(server.loop, ""));
  CHECK(server.registry.query().empty());
  CHECK(server.events == std::vector<std::string>{"BLOCK_EXPORT_DELETED"});
  CHECK(refusal(server, server.service.stop(server.loop, "")) == "NBD server not running");
  CHECK(refusal(server, server.registry.add(server.loop, server.options_for("disk", false))) ==
        "NBD server not running");
}

TEST_CASE("an export in use is only removed by force, which disconnects its clients") {
  NbdFixture server;
  server.serve("disk");
  server.serve("other");
  auto client = server.enter("disk", ReplyMode::simple);
  auto other = server.enter("other", ReplyMode::simple);
  using Mode = qapi::BlockExportRemoveMode;
  CHECK(refusal(server, server.registry.remove(server.loop, "disk", Mode::safe)) ==
        "export 'disk' still in use");
  CHECK(server.run(client->request({.length = 8})).size() == 1);
  server.run(server.registry.remove(server.loop, "disk", Mode::hard));
  CHECK(server.run(client->at_end()));
  server.settle();
  CHECK(server.registry.query().size() == 1);
  CHECK(server.events == std::vector<std::string>{"BLOCK_EXPORT_DELETED"});
  CHECK(refusal(server, server.registry.remove(server.loop, "disk", Mode::hard)) ==
        "Export 'disk' is not found");
  CHECK(server.run(other->request({.length = 8})).size() == 1);
}

TEST_CASE("stopping the server disconnects clients in every phase") {
  NbdFixture server;
  server.serve("disk");
  auto silent = server.connect();
  auto greeted = server.connect();
  server.run(greeted->greet());
  auto entered = server.enter("disk", ReplyMode::extended);
  server.run(server.service.stop(server.loop, ""));
  server.run(silent->receive(nbd::kGreetingSize));
  CHECK(server.run(silent->at_end()));
  CHECK(server.run(greeted->at_end()));
  CHECK(server.run(entered->at_end()));
}

TEST_CASE("clients beyond the limit wait until another leaves") {
  NbdFixture server({.max_connections = 1});
  server.serve("disk");
  auto first = server.enter("disk", ReplyMode::simple);
  auto second = server.connect();
  server.settle();
  CHECK(server.service.find("")->clients() == 1);
  first.reset();
  server.run(second->enter("disk", ReplyMode::simple));
  CHECK(server.run(second->request({.length = 8})).size() == 1);
}
