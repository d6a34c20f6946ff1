// SPDX-License-Identifier: GPL-2.0-or-later
//
// Limits on clients that do nothing, and on those that come and go.
#include "block/aio/iothread.h"
#include "block/export/nbd/export.h"
#include "block/export/nbd/server.h"
#include "tests/unit/export_nbd/client.h"

using namespace strata;
using namespace strata::test;

namespace {

// Time stands still until nobody has anything to do.
class SteppingClock final : public Clock {
 public:
  TimePoint now() noexcept override { return now_; }
  bool skip_to(TimePoint deadline) noexcept override {
    now_ = deadline;
    return true;
  }

 private:
  TimePoint now_{};
};

}  // namespace

TEST_CASE("who does not finish the handshake in time is disconnected") {
  SteppingClock clock;
  AioContext context("test", clock);
  MainLoop loop(context);
  auto run = [&](auto task) { return context.run_to_completion(std::move(task)); };
  UnixAddress address{.path = fmt::format("strata-limit-{}", ::getpid()), .abstract = true};
  PassedFds none;
  nbd_export::NbdServer server(loop, {.handshake_seconds = 10},
                               run(listen_on(context, address, 10, none)), {});
  Client client(context, run(connect_to(context, address, none)));
  TimePoint start = clock.now();
  run(client.greet());
  CHECK(run(client.at_end()));
  CHECK(clock.now() - start == std::chrono::seconds(10));
  run(server.stop());
}

TEST_CASE("a thousand clients that come and go leave nothing behind") {
  NbdFixture server;
  server.serve("disk");
  auto stays = server.enter("disk", ReplyMode::structured);
  for (int i = 0; i < 1000; ++i) {
    auto client = server.connect();
    if (i % 3 == 1) server.run(client->greet());
    if (i % 3 == 2) server.run(client->send(nbd::as_bytes(std::string(20, 'x'))));
  }
  server.settle();
  CHECK(server.service.server()->clients() <= 2);
  CHECK(server.run(stays->request({.length = 8})).size() == 1);
}

TEST_CASE("connections are served in the export's contexts, one after the other") {
  Fixture fixture;
  NodePtr node = fixture.open_memory("disk");
  UnixAddress address{.path = fmt::format("strata-threads-{}", ::getpid()), .abstract = true};
  PassedFds none;
  {
    IoThread first("first");
    IoThread second("second");
    nbd_export::NbdServer server(fixture.loop, {},
                                 fixture.run(listen_on(fixture.context, address, 10, none)), {});
    auto backend = std::make_unique<Backend>(fixture.layer);
    backend->attach(fixture.loop, node, kReadWrite);
    auto exported = std::make_shared<nbd_export::NbdExport>(
        std::move(backend),
        nbd_export::ExportSettings{
            .name = "disk", .writable = true, .contexts = {&first.context(), &second.context()}});
    server.add_export(exported);
    std::vector<std::unique_ptr<Client>> clients;
    for (int i = 0; i < 4; ++i) {
      clients.push_back(std::make_unique<Client>(
          fixture.context, fixture.run(connect_to(fixture.context, address, none))));
      fixture.run(clients.back()->enter("disk", ReplyMode::simple));
    }
    // The memory driver's notes are not for several threads: one request at a time.
    for (size_t i = 0; i < clients.size(); ++i) {
      std::string data(512, static_cast<char>('a' + i));
      fixture.run(
          clients[i]->request({.offset = i * 512, .length = 512, .command = Command::write}, data));
    }
    auto answers = fixture.run(clients[3]->request({.length = 2048}));
    CHECK(answers.front().payload == std::string(512, 'a') + std::string(512, 'b') +
                                         std::string(512, 'c') + std::string(512, 'd'));
    fixture.run(server.remove_export(exported));
    fixture.run(exported->backend().close(fixture.loop));
    fixture.run(server.stop());
  }
  fixture.run(fixture.layer.release(fixture.loop, std::move(node)));
}
