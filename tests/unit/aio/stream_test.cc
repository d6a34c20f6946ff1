// SPDX-License-Identifier: GPL-2.0-or-later
//
// FdWatch, SocketStream and Listener on socket pairs and pipes.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <string>
#include <vector>

#include "block/aio/aio_context.h"
#include "block/aio/listener.h"
#include "block/aio/socket_stream.h"
#include "block/coro/scope.h"
#include "tests/unit/aio/scratch_file.h"

namespace strata {
namespace {

struct Pair {
  UniqueFd a;
  UniqueFd b;
};

Pair socket_pair() {
  int fds[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

Pair make_pipe() {
  int fds[2];
  REQUIRE(::pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

std::span<const std::byte> bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

Task<void> watch(FdWatch& watch, CancelToken cancel, int& answer) {
  answer = co_await watch.readable(cancel) ? 1 : 0;
}

Task<void> watch_pipe(AioContext& context) {
  Pair pipe = make_pipe();
  FdWatch reader(context, pipe.a.get());
  TaskScope scope;
  int answer = -1;
  scope.spawn(watch(reader, {}, answer));
  for (int i = 0; i < 3; ++i) co_await context.yield();
  CHECK(answer == -1);
  CHECK(::write(pipe.b.get(), "x", 1) == 1);
  co_await scope.join();
  CHECK(answer == 1);
  FdWatch writer(context, pipe.b.get());
  bool writable = co_await writer.writable();
  CHECK(writable);
}

TEST_CASE("A watch tells when there is something to read, or room to write") {
  AioContext context("test");
  context.run_to_completion(watch_pipe(context));
}

Task<void> cancel_watch(AioContext& context) {
  Pair pipe = make_pipe();
  FdWatch reader(context, pipe.a.get());
  CancelSource source;
  TaskScope scope;
  int answer = -1;
  scope.spawn(watch(reader, source.token(), answer));
  co_await context.yield();
  source.cancel();
  co_await scope.join();
  CHECK(answer == 0);
  bool again = co_await reader.readable(source.token());
  CHECK_FALSE(again);
  CHECK(::write(pipe.b.get(), "x", 1) == 1);
  bool ready = co_await reader.readable();
  CHECK(ready);
}

TEST_CASE("A cancelled watch ends, and the next one works") {
  AioContext context("test");
  context.run_to_completion(cancel_watch(context));
}

Task<void> watch_file(AioContext& context) {
  UniqueFd file = test::scratch_file();
  FdWatch watch(context, file.get());
  bool ready = co_await watch.readable();
  CHECK(ready);
}

TEST_CASE("A regular file is always ready") {
  AioContext context("test");
  context.run_to_completion(watch_file(context));
}

Task<void> send_all(Stream& stream, const std::string& text) {
  Status status = co_await stream.write_all(bytes(text));
  CHECK(status.ok());
}

// More than a socket buffers, so both sides have to wait.
Task<void> transfer(AioContext& context) {
  Pair pair = socket_pair();
  SocketStream from(context, std::move(pair.a));
  SocketStream to(context, std::move(pair.b));
  std::string sent(8 << 20, 'x');
  for (size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<char>(i * 31 / 7);
  TaskScope scope;
  scope.spawn(send_all(from, sent));
  std::string got(sent.size(), 0);
  Status status = co_await to.read_exactly(IoVector::buffer(got.data(), got.size()));
  CHECK(status.ok());
  CHECK(got == sent);
  co_await scope.join();
}

TEST_CASE("A stream carries more than the kernel buffers") {
  AioContext context("test");
  context.run_to_completion(transfer(context));
}

Task<void> meet_the_end(AioContext& context) {
  Pair pair = socket_pair();
  SocketStream stream(context, std::move(pair.a));
  CHECK(::write(pair.b.get(), "ab", 2) == 2);
  pair.b.reset();
  char buffer[3];
  Status status = co_await stream.read_exactly(IoVector::buffer(buffer, sizeof buffer));
  CHECK(status.error_number() == EPIPE);
  status = co_await stream.read_exactly(IoVector::buffer(buffer, sizeof buffer));
  CHECK(status.error_number() == ENODATA);
  Result<size_t> none = co_await stream.read_some(IoVector::buffer(buffer, sizeof buffer));
  CHECK(none.ok());
  CHECK(*none == 0);
  status = co_await stream.write_all(bytes("x"));
  CHECK(status.error_number() == EPIPE);
}

TEST_CASE("The end of a stream in the midst of something differs from its end before it") {
  AioContext context("test");
  context.run_to_completion(meet_the_end(context));
}

Task<void> read_into(Stream& stream, CancelToken cancel, int& error) {
  char buffer[8];
  Result<size_t> got = co_await stream.read_some(IoVector::buffer(buffer, sizeof buffer), cancel);
  error = got.ok() ? static_cast<int>(*got) : -got.error_number();
}

Task<void> stop_readers(AioContext& context) {
  Pair pair = socket_pair();
  SocketStream stream(context, std::move(pair.a));
  TaskScope scope;
  CancelSource source;
  int answer = 1;
  scope.spawn(read_into(stream, source.token(), answer));
  co_await context.yield();
  source.cancel();
  co_await scope.join();
  CHECK(answer == -ECANCELED);
  answer = 1;
  scope.spawn(read_into(stream, {}, answer));
  co_await context.yield();
  stream.shutdown();
  co_await scope.join();
  CHECK(answer == 0);
}

TEST_CASE("A reader is stopped by its token or by shutdown") {
  AioContext context("test");
  context.run_to_completion(stop_readers(context));
}

Task<void> pass_descriptors(AioContext& context) {
  Pair pair = socket_pair();
  SocketStream from(context, std::move(pair.a));
  SocketStream to(context, std::move(pair.b));
  Pair pipe = make_pipe();
  int fds[2] = {pipe.a.get(), pipe.b.get()};
  Status status = co_await from.write_with_fds(bytes("hello"), fds);
  CHECK(status.ok());
  char text[16];
  std::vector<UniqueFd> received;
  Result<size_t> got =
      co_await to.read_some_with_fds(IoVector::buffer(text, sizeof text), received);
  REQUIRE(got.ok());
  CHECK(std::string(text, *got) == "hello");
  REQUIRE(received.size() == 2);
  CHECK((::fcntl(received[0].get(), F_GETFD) & FD_CLOEXEC) != 0);
  CHECK(::write(received[1].get(), "y", 1) == 1);
  char byte = 0;
  CHECK(::read(pipe.a.get(), &byte, 1) == 1);
  CHECK(byte == 'y');
  std::vector<int> too_many(17, fds[0]);
  status = co_await from.write_with_fds(bytes("x"), too_many);
  CHECK(status.error_number() == EMSGSIZE);
}

TEST_CASE("Descriptors travel with a stream's bytes") {
  AioContext context("test");
  context.run_to_completion(pass_descriptors(context));
}

Task<void> accept_some(AioContext& context) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un any{};
  any.sun_family = AF_UNIX;
  // Without a name: the kernel finds one in the abstract name space.
  REQUIRE(::bind(fd.get(), reinterpret_cast<sockaddr*>(&any), sizeof(sa_family_t)) == 0);
  sockaddr_un name{};
  socklen_t size = sizeof name;
  REQUIRE(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&name), &size) == 0);
  REQUIRE(::listen(fd.get(), 4) == 0);
  Listener listener(context, std::move(fd));
  UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(::connect(client.get(), reinterpret_cast<sockaddr*>(&name), size) == 0);
  Result<UniqueFd> connection = co_await listener.accept();
  REQUIRE(connection.ok());
  CHECK(::write(client.get(), "z", 1) == 1);
  char byte = 0;
  CHECK(::read(connection->get(), &byte, 1) == 1);

  struct Accept {
    static Task<void> one(Listener& listener, CancelToken cancel, int& error) {
      error = (co_await listener.accept(cancel)).error_number();
    }
  };
  CancelSource source;
  int error = 0;
  TaskScope scope;
  scope.spawn(Accept::one(listener, source.token(), error));
  co_await context.yield();
  source.cancel();
  co_await scope.join();
  CHECK(error == ECANCELED);
}

TEST_CASE("A listener accepts until it is told not to") {
  AioContext context("test");
  context.run_to_completion(accept_some(context));
}

}  // namespace
}  // namespace strata
