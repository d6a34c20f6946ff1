// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/socket_connect.h"

#include <catch2/catch.hpp>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "block/aio/aio_context.h"
#include "block/base/error.h"

namespace strata {
namespace {

struct Fixture {
  AioContext context{"test"};
  PassedFds passed;
  std::string base = fmt::format("/tmp/strata-socket-test-{}", ::getpid());

  std::vector<ListeningSocket> listen(SocketAddress address) {
    return context.run_to_completion(listen_on(context, std::move(address), 1, passed));
  }
  UniqueFd connect(SocketAddress address) {
    return context.run_to_completion(connect_to(context, std::move(address), passed));
  }
  std::string listen_error(SocketAddress address) {
    try {
      listen(std::move(address));
    } catch (const Error& error) {
      return error.text();
    }
    return "no error";
  }
  std::string connect_error(SocketAddress address) {
    try {
      connect(std::move(address));
    } catch (const Error& error) {
      return error.text();
    }
    return "no error";
  }
};

TEST_CASE_METHOD(Fixture, "an abstract socket is reached under its name", "[aio]") {
  UnixAddress address{.path = base, .abstract = true};
  auto sockets = listen(address);
  REQUIRE(sockets.size() == 1);
  UniqueFd client = connect(address);
  CHECK(client);
  auto local = local_address(sockets[0].fd.get());
  REQUIRE(local);
  CHECK(std::get<UnixAddress>(*local).abstract);
  CHECK(std::get<UnixAddress>(*local).path == base);
}

TEST_CASE_METHOD(Fixture, "a name already in use is an error that names it", "[aio]") {
  UnixAddress address{.path = base, .abstract = true};
  auto sockets = listen(address);
  CHECK(listen_error(address) == "Failed to bind socket to " + base + ": Address already in use");
}

TEST_CASE_METHOD(Fixture, "a unix socket leaves no file behind", "[aio]") {
  listen(UnixAddress{.path = base});
  CHECK(::access(base.c_str(), F_OK) != 0);
}

TEST_CASE_METHOD(Fixture, "a socket that was replaced does not remove its successor", "[aio]") {
  auto first = listen(UnixAddress{.path = base});
  auto second = listen(UnixAddress{.path = base});
  first.clear();
  CHECK(connect(UnixAddress{.path = base}));
}

TEST_CASE_METHOD(Fixture, "a regular file is not replaced by a socket", "[aio]") {
  UniqueFd file(::open(base.c_str(), O_CREAT | O_WRONLY, 0600));
  CHECK(listen_error(UnixAddress{.path = base}) ==
        "Failed to bind socket to " + base + ": Address already in use");
  CHECK(::unlink(base.c_str()) == 0);
}

TEST_CASE_METHOD(Fixture, "a path too long is refused before the kernel sees it", "[aio]") {
  std::string path(120, 'a');
  CHECK(listen_error(UnixAddress{.path = path}) == "UNIX socket path '" + path + "' is too long");
}

TEST_CASE_METHOD(Fixture, "connecting to nobody says to whom", "[aio]") {
  CHECK(connect_error(UnixAddress{.path = base}) ==
        "Failed to connect to '" + base + "': No such file or directory");
}

TEST_CASE_METHOD(Fixture, "an inet socket is reached at the port it was given", "[aio]") {
  auto sockets = listen(InetAddress{.host = "127.0.0.1", .port = "0"});
  REQUIRE(sockets.size() == 1);
  auto local = local_address(sockets[0].fd.get());
  REQUIRE(local);
  CHECK(connect(*local));
  std::string port = std::get<InetAddress>(*local).port;
  CHECK(listen_error(InetAddress{.host = "127.0.0.1", .port = port}) ==
        "Failed to find an available port: Address already in use");
}

TEST_CASE_METHOD(Fixture, "bad inet addresses get resolver errors", "[aio]") {
  CHECK(listen_error(InetAddress{.host = "127.0.0.1", .port = "abc"}) ==
        "address resolution failed for 127.0.0.1:abc: Servname not supported for ai_socktype");
  CHECK(listen_error(InetAddress{.host = "127.0.0.1", .port = "70000"}) ==
        "address resolution failed for 127.0.0.1:70000: Servname not supported for ai_socktype");
  CHECK(listen_error(InetAddress{.host = "::1", .port = "1", .ipv4 = true}) ==
        "address resolution failed for ::1:1: Address family for hostname not supported");
  CHECK(listen_error(InetAddress{.host = "::1", .port = "1", .ipv4 = false, .ipv6 = false}) ==
        "Cannot disable IPv4 and IPv6 at same time");
  CHECK(listen_error(InetAddress{.host = "127.0.0.1", .port = "9", .to = uint16_t(8)}) ==
        "Failed to create a socket");
}

TEST_CASE_METHOD(Fixture, "vsock numbers are checked", "[aio]") {
  CHECK(listen_error(VsockAddress{"x", "1"}) == "Failed to parse cid 'x'");
  CHECK(listen_error(VsockAddress{"1", ""}) == "Failed to parse port ''");
}

TEST_CASE_METHOD(Fixture, "only descriptors that were handed down can be used, and once", "[aio]") {
  UniqueFd own(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(own);
  std::string number = std::to_string(own.get());
  CHECK(connect_error(FdAddress{number}) == "File descriptor '" + number + "' is not a socket");
  CHECK(connect_error(FdAddress{"abc"}) == "Unable to parse FD number abc");
  CHECK(connect_error(FdAddress{"99999999999"}) ==
        "Unable to parse FD number 99999999999: Numerical result out of range");

  passed = PassedFds::inherited();
  passed.add_name("door", own.release());
  UniqueFd taken = connect(FdAddress{"door"});
  CHECK(std::to_string(taken.get()) == number);
  CHECK(connect_error(FdAddress{"door"}) == "Unable to parse FD number door");  // it is gone
}

}  // namespace
}  // namespace strata
