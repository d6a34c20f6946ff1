// SPDX-License-Identifier: GPL-2.0-or-later
#include <catch2/catch.hpp>

#include <sys/socket.h>

#include "block/aio/socket_stream.h"
#include "qapi/runtime/json_parser.h"
#include "qapi/runtime/json_writer.h"
#include "storage-daemon/daemon.h"
#include "storage-daemon/monitor/request.h"
#include "storage-daemon/monitor/session.h"

namespace strata {
namespace {

std::string request_error(std::string_view text, bool oob) {
  try {
    parse_request(qapi::parse_json(text), oob);
  } catch (const Error& error) {
    return error.text();
  }
  return "no error";
}

TEST_CASE("a request is checked for form", "[storage-daemon]") {
  CHECK(request_error("[]", false) == "QMP input must be a JSON object");
  CHECK(request_error("{}", false) == "QMP input lacks member 'execute'");
  CHECK(request_error("{'execute': 1}", false) == "QMP input member 'execute' must be a string");
  CHECK(request_error("{'execute': 'a', 'x': 1}", false) == "QMP input member 'x' is unexpected");
  CHECK(request_error("{'execute': 'a', 'arguments': []}", false) ==
        "QMP input member 'arguments' must be an object");
  CHECK(request_error("{'exec-oob': 'a'}", false) == "QMP input member 'exec-oob' is unexpected");
  CHECK(request_error("{'exec-oob': 'a'}", true) == "no error");
  CHECK(request_error("{'execute': 'a', 'exec-oob': 'a'}", true) ==
        "QMP input member 'execute' clashes with 'exec-oob'");
}

// Time that passes only when a loop has nothing else to do.
class TestClock final : public Clock {
 public:
  TimePoint now() noexcept override { return now_; }
  bool skip_to(TimePoint deadline) noexcept override {
    now_ = deadline;
    return true;
  }

 private:
  TimePoint now_{};
};

struct Recorder final : EventListener {
  void on_event(const boost::json::object& event) override {
    seen.push_back(qapi::write_json(event.at("data")));
  }
  std::vector<std::string> seen;
};

struct Events {
  TestClock clock;
  AioContext context{"test", clock};
  EventHub hub{context};
  Recorder recorder;

  Events() { hub.add(recorder); }
  static Task<void> sleep(AioContext& context, Duration time) { co_await context.sleep_for(time); }
  void pass(Duration time) { context.run_to_completion(sleep(context, time)); }
};

TEST_CASE_METHOD(Events, "of a flood the first and the latest event are sent", "[storage-daemon]") {
  for (int i = 0; i < 100; ++i) hub.emit("QUORUM_FAILURE", {{"n", i}});
  CHECK(recorder.seen == std::vector<std::string>{"{\"n\": 0}"});
  pass(std::chrono::milliseconds(1500));
  CHECK(recorder.seen.size() == 2);
  CHECK(recorder.seen.back() == "{\"n\": 99}");
  pass(std::chrono::seconds(2));
  hub.emit("QUORUM_FAILURE", {{"n", 100}});
  CHECK(recorder.seen.size() == 3);
  pass(std::chrono::seconds(2));
}

TEST_CASE_METHOD(Events, "floods of different nodes do not hide each other", "[storage-daemon]") {
  hub.emit("QUORUM_REPORT_BAD", {{"node-name", "a"}});
  hub.emit("QUORUM_REPORT_BAD", {{"node-name", "b"}});
  CHECK(recorder.seen.size() == 2);
  pass(std::chrono::seconds(2));
}

TEST_CASE_METHOD(Events, "other events are not limited", "[storage-daemon]") {
  for (int i = 0; i < 10; ++i) hub.emit("BLOCK_EXPORT_DELETED", {{"id", "a"}});
  CHECK(recorder.seen.size() == 10);
}

// A daemon and one client of a session.
struct Client {
  AioContext context{"test"};
  MainLoop loop{context};
  Daemon daemon{loop, PassedFds(), nullptr};
  std::unique_ptr<SocketStream> stream;
  std::unique_ptr<QmpSession> session;
  TaskScope scope;
  qapi::JsonParser parser;
  std::string received;

  Client() {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    stream = std::make_unique<SocketStream>(context, UniqueFd(ends[0]));
    session = std::make_unique<QmpSession>(
        daemon, loop, std::make_shared<SocketStream>(context, UniqueFd(ends[1])), false);
    context.run_to_completion(start(*this));
  }
  ~Client() { context.run_to_completion(finish(*this)); }

  static Task<void> start(Client& self) {
    self.scope.spawn(self.session->run());
    co_return;
  }
  static Task<void> finish(Client& self) {
    self.session->finish();
    co_await self.scope.join();
    co_await self.daemon.shut_down(self.loop);
  }
  static Task<void> write(Client& self, std::string text) {
    Status status = co_await self.stream->write_all(std::as_bytes(std::span(text)));
    CHECK(status.ok());
  }
  // Until `count` lines have come.
  static Task<std::vector<std::string>> read(Client& self, size_t count) {
    std::vector<std::string> lines;
    char buffer[4096];
    while (lines.size() < count) {
      size_t end = self.received.find("\r\n");
      if (end != std::string::npos) {
        lines.push_back(self.received.substr(0, end));
        self.received.erase(0, end + 2);
        continue;
      }
      Result<size_t> got = co_await self.stream->read_some(IoVector::buffer(buffer, sizeof buffer));
      if (!got || *got == 0) break;
      self.received.append(buffer, *got);
    }
    co_return lines;
  }
  std::vector<std::string> ask(std::string text, size_t count) {
    context.run_to_completion(write(*this, std::move(text)));
    return context.run_to_completion(read(*this, count));
  }
};

TEST_CASE_METHOD(Client, "a session greets, negotiates and answers in order", "[storage-daemon]") {
  auto lines =
      ask("{'execute': 'query-commands'}{'execute': 'qmp_capabilities', 'id': 1}"
          "{'execute': 'nosuch', 'id': 2} } {'execute': 'query-block', 'id': 3}",
          6);
  REQUIRE(lines.size() == 6);
  CHECK(lines[0].starts_with("{\"QMP\": {\"version\": {"));
  CHECK(lines[1] ==
        "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Expecting capabilities "
        "negotiation with 'qmp_capabilities'\"}}");
  CHECK(lines[2] == "{\"return\": {}, \"id\": 1}");
  CHECK(
      lines[3] ==
      "{\"id\": 2, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command nosuch has "
      "not been found\"}}");
  CHECK(lines[4] ==
        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error, expecting "
        "value\"}}");
  CHECK(lines[5] == "{\"return\": [], \"id\": 3}");
}

TEST_CASE_METHOD(Client, "events reach a client that has negotiated", "[storage-daemon]") {
  daemon.events().emit("BLOCK_EXPORT_DELETED", {{"id", "early"}});
  ask("{'execute': 'qmp_capabilities'}", 2);
  daemon.events().emit("BLOCK_EXPORT_DELETED", {{"id", "late"}});
  auto lines = context.run_to_completion(read(*this, 1));
  REQUIRE(lines.size() == 1);
  CHECK(lines[0].find("\"data\": {\"id\": \"late\"}") != std::string::npos);
}

TEST_CASE("two daemons in a process have nothing in common", "[storage-daemon]") {
  Client one;
  Client two;
  one.ask("{'execute': 'qmp_capabilities'}", 2);
  two.ask("{'execute': 'qmp_capabilities'}", 2);
  auto made = one.ask(
      "{'execute': 'object-add', 'arguments': {'qom-type': 'throttle-group', 'id': 'g'}}", 1);
  CHECK(made[0] == "{\"return\": {}}");
  auto missing = two.ask("{'execute': 'object-del', 'arguments': {'id': 'g'}}", 1);
  CHECK(missing[0].find("object 'g' not found") != std::string::npos);
}

}  // namespace
}  // namespace strata
