// SPDX-License-Identifier: GPL-2.0-or-later
#include <sys/socket.h>

#include <catch2/catch.hpp>

#include "block/aio/aio_context.h"
#include "block/aio/socket_stream.h"
#include "block/base/error.h"
#include "storage-daemon/metrics/exposition.h"
#include "storage-daemon/metrics/server.h"

using namespace strata;
using Catch::Matchers::Contains;

TEST_CASE("labels are escaped and values follow their header") {
  Exposition out;
  out.begin("m_total", Exposition::Kind::counter, "Help.");
  out.add({{"node", "a\"b\\c\nd"}, {"op", "read"}}, 3);
  CHECK(out.take() ==
        "# HELP m_total Help.\n# TYPE m_total counter\n"
        "m_total{node=\"a\\\"b\\\\c\\nd\",op=\"read\"} 3\n");
}

TEST_CASE("latency buckets are cumulative and end in +Inf") {
  IoTotals totals;
  totals.latency[0] = 2;
  totals.latency[3] = 1;
  totals.time_ns = 1'500'000'000;
  Exposition out;
  out.begin("m", Exposition::Kind::histogram, "Help.");
  out.add_latency({}, totals);
  std::string text = out.take();
  CHECK_THAT(text, Contains("m_bucket{le=\"1.024e-06\"} 2\n"));
  CHECK_THAT(text, Contains("m_bucket{le=\"8.192e-06\"} 3\n"));
  CHECK_THAT(text, Contains("m_bucket{le=\"+Inf\"} 3\n"));
  CHECK_THAT(text, Contains("m_sum 1.5\n"));
  CHECK_THAT(text, Contains("m_count 3\n"));
}

TEST_CASE("an address is a Unix path or a host and a port") {
  CHECK(std::get<UnixAddress>(parse_metrics_address("unix:/a:b")).path == "/a:b");
  auto inet = std::get<InetAddress>(parse_metrics_address("[::1]:9100"));
  CHECK(inet.host == "::1");
  CHECK(inet.port == "9100");
  CHECK_THROWS_AS(parse_metrics_address("nonsense"), Error);
}

namespace {

Task<std::string> ask(AioContext& context, std::string request) {
  char name[] = "strata-metrics-test";  // an abstract name: nothing is left behind
  PassedFds none;
  UnixAddress address{.path = name, .abstract = true};
  auto sockets = co_await listen_on(context, address, 4, none);
  MetricsServer server(context, std::move(sockets), [] { return std::string("m 1\n"); });
  SocketStream stream(context, co_await connect_to(context, address, none));
  std::string answer;
  if ((co_await stream.write_all(std::as_bytes(std::span(request)))).ok()) {
    char buffer[4096];
    for (;;) {
      Result<size_t> got = co_await stream.read_some(IoVector::buffer(buffer, sizeof buffer));
      if (!got || *got == 0) break;
      answer.append(buffer, *got);
    }
  }
  co_await server.stop();
  co_return answer;
}

}  // namespace

TEST_CASE("GET /metrics is answered, and nothing else") {
  AioContext context("test");
  auto run = [&](const char* request) { return context.run_to_completion(ask(context, request)); };
  std::string ok = run("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  CHECK_THAT(ok, Contains("200 OK"));
  CHECK_THAT(ok, Contains("\r\n\r\nm 1\n"));
  CHECK_THAT(run("GET /other HTTP/1.1\r\n\r\n"), Contains("404 Not Found"));
  CHECK_THAT(run("POST /metrics HTTP/1.1\r\n\r\n"), Contains("405 Method Not Allowed"));
  CHECK(run((std::string(9000, 'x') + "\r\n\r\n").c_str()).empty());
}
