// SPDX-License-Identifier: GPL-2.0-or-later
//
// An NBD server out of anywhere, and our client: its handshake, a list of its exports, and its
// replies to requests of every kind. Whatever it says, every request ends, one that ends well has
// got all it asked for, and nothing is written outside of what was asked for.
//
// The first byte of the input chooses what it is: what a server says in the handshake, word for
// word, or a row of replies. A reply is a head of four bytes and what the head says; magics and
// cookies are put in, for otherwise hardly any reply would reach a request.
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "block/aio/aio_context.h"
#include "block/base/error.h"
#include "block/drivers/nbd/connection.h"
#include "block/drivers/nbd/handshake.h"
#include "block/nbd/wire.h"

using namespace strata;
using nbd::Command;
using nbd::ReplyMode;
using nbd_client::Call;
using nbd_client::Channel;
using nbd_client::Connection;
using nbd_client::ExportInfo;

namespace {

constexpr uint64_t kSize = 1 << 20;
constexpr uint32_t kContext = 5;
constexpr size_t kMostReplies = 200;
constexpr std::byte kUntouched{0xa5};

void require(bool condition) {
  if (!condition) std::abort();
}

// Both ends of a connection: the server's is written by hand.
class Pair {
 public:
  Pair() {
    std::array<int, 2> ends;
    require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0);
    client_ = UniqueFd(ends[0]);
    server_ = UniqueFd(ends[1]);
  }
  std::unique_ptr<Channel> channel(AioContext& context) {
    return std::make_unique<Channel>(context, std::move(client_));
  }
  // What does not fit the socket is never said.
  void say(const void* bytes, size_t size) const {
    ssize_t sent = ::send(server_.get(), bytes, size, MSG_NOSIGNAL);
    static_cast<void>(sent);
  }
  void say_no_more() const { ::shutdown(server_.get(), SHUT_WR); }
  // Of what the client has sent; false where nothing is there.
  bool hear() const {
    std::array<char, 65536> scratch;
    return ::recv(server_.get(), scratch.data(), scratch.size(), 0) > 0;
  }

 private:
  UniqueFd client_;
  UniqueFd server_;
};

// A request with memory of just its size.
struct Request {
  Request(Command command, uint64_t offset, uint64_t length, bool has_data) {
    if (has_data) memory.assign(length, kUntouched);
    call.request = {.offset = offset, .length = length, .command = command};
    if (has_data) call.data = IoVector::buffer(memory.data(), memory.size());
  }
  std::vector<std::byte> memory;
  Call call;
};

Task<void> perform(Connection& connection, Request& request) {
  co_await connection.perform(request.call);
}

std::vector<std::unique_ptr<Request>> all_requests() {
  std::vector<std::unique_ptr<Request>> requests;
  auto add = [&](Command command, uint64_t offset, uint64_t length, bool has_data) {
    requests.push_back(std::make_unique<Request>(command, offset, length, has_data));
  };
  add(Command::read, 0, 4096, true);
  add(Command::read, 8192, 100, true);
  add(Command::block_status, 0, kSize, false);
  add(Command::write, 512, 512, true);
  add(Command::flush, 0, 0, false);
  add(Command::write_zeroes, 0, 4096, false);
  add(Command::read, kSize - 1, 1, true);
  add(Command::block_status, 4096, 4096, false);
  return requests;
}

// What the n-th request of a connection is known by.
uint64_t cookie_of(size_t index) {
  return (index + 1) * Connection::kMostCalls + index;
}

struct Input {
  const uint8_t* data;
  size_t size;

  uint64_t take(size_t bytes) {
    uint64_t value = 0;
    for (; bytes != 0 && size != 0; --bytes, --size) value = value << 8 | *data++;
    return value;
  }
};

// Head: which magic (0 to 2, 3: any), which request, flags and type; then 2 or 8 bytes of length or
// error, and the payload. A type of 16 or more is an error's.
void say_reply(const Pair& pair, Input& input) {
  uint64_t head = input.take(4);
  unsigned kind = head >> 24 & 3;
  bool has_wild_cookie = (head >> 24 & 0x80) != 0;
  auto request = static_cast<size_t>(head >> 16 & 7);
  uint64_t cookie = has_wild_cookie ? input.take(8) : cookie_of(request);
  auto flags = static_cast<uint16_t>(head >> 8 & 0xff);
  auto type = static_cast<uint16_t>(head & 15);
  if ((head & 16) != 0) type |= 0x8000;
  uint64_t length = input.take((head & 0x80) != 0 ? 8 : 2);
  nbd::Message message;
  if (kind == 0) {
    message.put(nbd::kSimpleReplyMagic).put(static_cast<uint32_t>(length & 0xff)).put(cookie);
  } else if (kind == 1) {
    message.put(nbd::kStructuredReplyMagic).put(flags).put(type).put(cookie);
    message.put(static_cast<uint32_t>(length));
  } else if (kind == 2) {
    message.put(nbd::kExtendedReplyMagic).put(flags).put(type).put(cookie);
    message.put(uint64_t{0}).put(length);
  }
  pair.say(message.bytes().data(), message.bytes().size());
  size_t payload = std::min<uint64_t>(input.size, kind == 0 ? (head & 0xff00) >> 2 : length);
  pair.say(input.data, payload);
  input.data += payload;
  input.size -= payload;
}

ExportInfo info_of(uint8_t choice) {
  ExportInfo info;
  info.size = kSize;
  info.mode = static_cast<ReplyMode>(choice % 3);
  info.context = kContext;
  return info;
}

Task<void> answer_requests(AioContext& context, uint8_t choice, Input input) {
  Pair pair;
  auto requests = all_requests();
  Connection connection(context, pair.channel(context), info_of(choice));
  TaskScope scope;
  for (auto& request : requests) scope.spawn(perform(connection, *request));
  while (!pair.hear()) co_await context.yield();
  for (size_t i = 0; i < kMostReplies && input.size >= 4; ++i) say_reply(pair, input);
  pair.say_no_more();
  co_await scope.join();
  for (auto& request : requests) {
    const Call& call = request->call;
    require(call.outcome != Call::Outcome::pending);
    bool is_well = call.outcome == Call::Outcome::answered && call.error == 0;
    if (!is_well) continue;
    if (call.request.command == Command::block_status) require(call.extent.has_value());
    if (call.request.command == Command::read && info_of(choice).mode != ReplyMode::simple)
      require(call.covered.is_whole(call.request.offset, call.request.length));
  }
}

Task<void> shake_hands(AioContext& context, bool lists, Input input) {
  Pair pair;
  std::unique_ptr<Channel> channel = pair.channel(context);
  pair.say(input.data, input.size);
  pair.say_no_more();
  try {
    nbd_client::Handshake handshake(*channel, {.export_name = lists ? "" : "disk"});
    if (lists)
      std::ignore = co_await handshake.list();
    else
      std::ignore = co_await handshake.enter();
  } catch (const Error& error) {
    require(!error.text().empty());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static AioContext& context = *new AioContext("main");  // outlives what ends with the process
  if (size == 0) return 0;
  uint8_t choice = data[0];
  Input input{data + 1, size - 1};
  if ((choice & 0x80) != 0)
    context.run_to_completion(shake_hands(context, (choice & 1) != 0, input));
  else
    context.run_to_completion(answer_requests(context, choice, input));
  return 0;
}
