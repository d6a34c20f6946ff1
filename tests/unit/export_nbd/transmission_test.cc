// SPDX-License-Identifier: GPL-2.0-or-later
#include <set>

#include "block/nbd/extents.h"
#include "tests/unit/export_nbd/client.h"

using namespace strata;
using namespace strata::test;

namespace {

// The data of a READ, whatever form it came in.
std::string data_of(const nbd::Request& request, const std::vector<Answer>& answers) {
  if (answers.front().header.simple) return answers.front().payload;
  std::string data(request.length, '\0');
  for (const Answer& answer : answers) {
    if (answer.header.type != ReplyType::offset_data) continue;
    nbd::Reader reader(nbd::as_bytes(answer.payload));
    uint64_t offset = reader.take<uint64_t>();
    data.replace(offset - request.offset, reader.left().size(), nbd::as_text(reader.left()));
  }
  return data;
}

bool succeeded(const std::vector<Answer>& answers) {
  const nbd::ReplyHeader& last = answers.back().header;
  return last.simple ? last.error == nbd::WireError::none : !is_error(last.type);
}

}  // namespace

TEST_CASE("what was written is read back, in every mode") {
  NbdFixture server;
  server.serve("disk");
  ReplyMode mode = GENERATE(ReplyMode::simple, ReplyMode::structured, ReplyMode::extended);
  auto client = server.enter("disk", mode);
  for (size_t size : {size_t{1}, size_t{4096}, size_t{300'000}}) {
    std::string data(size, '\0');
    for (size_t i = 0; i < size; ++i) data[i] = static_cast<char>('a' + i % 23);
    nbd::Request write{.cookie = 7, .offset = 1000, .length = size, .command = Command::write};
    CHECK(succeeded(server.run(client->request(write, data))));
    nbd::Request read{.cookie = 8, .offset = 1000, .length = size};
    auto answers = server.run(client->request(read));
    CHECK(answers.front().header.cookie == 8);
    CHECK(data_of(read, answers) == data);
  }
}

TEST_CASE("FUA, zeroes, trim, flush and cache reach the node") {
  NbdFixture server;
  server.behaviour.write_flags = WriteFlag::fua;
  server.behaviour.zero_flags = {WriteFlag::fua, WriteFlag::may_unmap, WriteFlag::no_fallback};
  server.behaviour.knows_zeroes = true;
  server.serve("disk");
  auto client = server.enter("disk", ReplyMode::structured);
  auto call = [&](nbd::Request request, std::string data = "") {
    server.behaviour.calls.clear();
    CHECK(succeeded(server.run(client->request(request, std::move(data)))));
    return server.behaviour.calls.empty() ? "nothing" : server.behaviour.calls.front();
  };
  CHECK(call({.length = 4, .command = Command::write, .flags = nbd::kCmdFua}, "abcd") ==
        "write-fua 0+4");
  CHECK(call({.length = 512, .command = Command::write_zeroes}) == "unmap 0+512");
  CHECK(call({.length = 512, .command = Command::write_zeroes, .flags = nbd::kCmdNoHole}) ==
        "zero 0+512");
  CHECK(call({.length = 4096, .command = Command::trim}) == "discard 0+4096");
  CHECK(call({.length = 4, .command = Command::write}, "abcd") == "write 0+4");
  CHECK(call({.command = Command::flush}) == "flush 0+0");
}

TEST_CASE("an error of the node is told with a text") {
  NbdFixture server;
  server.serve("disk");
  auto client = server.enter("disk", ReplyMode::structured);
  auto failing = [&](nbd::Request request, std::string data = "") {
    server.behaviour.fail_next = EIO;
    return error_of(server.run(client->request(request, std::move(data))));
  };
  CHECK(failing({.length = 512}) == "5 reading from file failed");
  CHECK(failing({.length = 1, .command = Command::write}, "x") == "5 writing to file failed");
  CHECK(succeeded(server.run(client->request({.length = 1, .command = Command::write}, "x"))));
  CHECK(failing({.command = Command::flush}) == "5 flush failed");
}

TEST_CASE("requests that must not be served are refused, and the next one is served") {
  NbdFixture server;
  server.serve("disk");
  server.serve("ro", false);
  auto client = server.enter("disk", ReplyMode::structured);
  auto refused = [&](nbd::Request request, std::string data = "") {
    return error_of(server.run(client->request(request, std::move(data))));
  };
  CHECK(refused({.offset = 1 << 20, .length = 1}) ==
        "22 operation past EOF; From: 1048576, Len: 1, Size: 1048576");
  CHECK(refused({.offset = UINT64_MAX, .length = 2}) ==
        "22 operation past EOF; From: 18446744073709551615, Len: 2, Size: 1048576");
  CHECK(refused({.length = nbd::kMaxPayload + 1}) ==
        "22 len (33554433 ) is larger than max len (33554432)");
  CHECK(refused({.length = 1, .flags = nbd::kCmdNoHole}) ==
        "22 unsupported flags for command read (got 0x2)");
  CHECK(refused({.command = static_cast<Command>(77)}) == "22 invalid request type (77) received");
  CHECK(refused({.length = 1, .command = Command::block_status}) ==
        "22 CMD_BLOCK_STATUS not negotiated");
  CHECK(succeeded(server.run(client->request({.length = 1}))));
  client = server.enter("ro", ReplyMode::structured);
  CHECK(refused({.length = 4, .command = Command::write}, "abcd") == "22 Export is read-only");
  CHECK(succeeded(server.run(client->request({.length = 1}))));
}

TEST_CASE("a write of more than 32 MiB is answered and ends the connection") {
  NbdFixture server;
  server.serve("disk");
  auto client = server.enter("disk", ReplyMode::structured);
  nbd::Request request{.length = nbd::kMaxPayload + 1, .command = Command::write};
  CHECK(error_of(server.run(client->request(request))) ==
        "22 len (33554433 ) is larger than max len (33554432)");
  CHECK(server.run(client->at_end()));
}

TEST_CASE("a wrong magic is answered and ends the connection") {
  NbdFixture server;
  server.serve("disk");
  auto client = server.enter("disk", ReplyMode::structured);
  server.run(client->send(nbd::as_bytes(std::string(28, 'x'))));
  std::vector<Answer> answers;
  answers.push_back(server.run(client->hear()));
  CHECK(error_of(answers) == "22 invalid magic (got 0x78787878)");
  CHECK(server.run(client->at_end()));
}

TEST_CASE("DISC ends the connection after what was asked before it is answered") {
  NbdFixture server;
  server.behaviour.yields = true;
  server.serve("disk");
  auto client = server.enter("disk", ReplyMode::simple);
  server.run(client->ask({.cookie = 5, .length = 16}));
  server.run(client->ask({.command = Command::disconnect}));
  CHECK(server.run(client->hear(16)).header.cookie == 5);
  CHECK(server.run(client->at_end()));
}

TEST_CASE("a client that vanishes in the midst of a payload leaves nothing behind") {
  NbdFixture server;
  server.serve("disk");
  auto client = server.enter("disk", ReplyMode::simple);
  server.run(client->ask({.length = 100'000, .command = Command::write}, std::string(5000, 'x')));
  client.reset();
  server.settle();
  CHECK(server.behaviour.calls.empty());
  CHECK(server.registry.find("disk")->users() == 0);
  client = server.enter("disk", ReplyMode::simple);
  CHECK(succeeded(server.run(client->request({.length = 16}))));
}

TEST_CASE("many requests sent at once are all answered") {
  NbdFixture server;
  server.behaviour.yields = GENERATE(false, true);
  server.serve("disk");
  auto client = server.enter("disk", ReplyMode::structured);
  constexpr uint64_t kCount = 1000;
  nbd::Message all;
  for (uint64_t i = 0; i < kCount; ++i) {
    std::array<std::byte, nbd::kMaxRequestSize> bytes;
    bool write = i % 3 == 0;
    size_t size = nbd::encode_request(bytes,
                                      {.cookie = i,
                                       .offset = i * 8,
                                       .length = 8,
                                       .command = write ? Command::write : Command::read},
                                      client->mode);
    all.put(nbd::ConstBytes(bytes).first(size));
    if (write) all.put(std::string_view("12345678"));
  }
  server.run(client->send(all.bytes()));
  std::set<uint64_t> answered;
  for (uint64_t i = 0; i < kCount; ++i) {
    Answer answer = server.run(client->hear());
    CHECK(answer.header.done());
    answered.insert(answer.header.cookie);
  }
  CHECK(answered.size() == kCount);
}

TEST_CASE("who does not take replies is not served without bound") {
  NbdFixture server;
  server.serve("disk");
  auto client = server.enter("disk", ReplyMode::simple);
  constexpr uint64_t kCount = 2000;
  constexpr uint32_t kLength = 64 * 1024;
  nbd::Message all;
  for (uint64_t i = 0; i < kCount; ++i) {
    std::array<std::byte, nbd::kMaxRequestSize> bytes;
    size_t size = nbd::encode_request(bytes, {.cookie = i, .length = kLength}, client->mode);
    all.put(nbd::ConstBytes(bytes).first(size));
  }
  server.run(client->send(all.bytes()));
  server.settle();
  size_t served = server.behaviour.calls.size();
  CHECK(served >= 1);
  CHECK(served < kCount);
  for (uint64_t i = 0; i < kCount; ++i)
    REQUIRE(server.run(client->hear(kLength)).header.cookie == i);
  CHECK(server.behaviour.calls.size() == kCount);
}

TEST_CASE("BLOCK_STATUS answers every context that was set") {
  NbdFixture server;
  server.serve("disk");
  ReplyMode mode = GENERATE(ReplyMode::structured, ReplyMode::extended);
  auto client = server.enter("disk", mode, {"base:allocation", "qemu:allocation-depth"});
  auto answers = server.run(
      client->request({.offset = 4096, .length = 8192, .command = Command::block_status}));
  REQUIRE(answers.size() == 2);
  for (uint32_t id : {0u, 1u}) {
    auto chunk = nbd::parse_block_status(nbd::as_bytes(answers[id].payload), mode);
    REQUIRE(chunk);
    CHECK(chunk->id() == id);
    REQUIRE(chunk->count() == 1);
    CHECK(chunk->extent(0) == nbd::Extent{.length = 8192, .flags = id});
  }
  CHECK(error_of(server.run(client->request({.command = Command::block_status}))) ==
        "22 need non-zero length");
}

TEST_CASE("BLOCK_STATUS with a payload answers the contexts it names") {
  NbdFixture server;
  server.serve("disk");
  auto client =
      server.enter("disk", ReplyMode::extended, {"base:allocation", "qemu:allocation-depth"});
  auto ask = [&](uint64_t length, std::vector<uint32_t> ids) {
    nbd::Message payload;
    payload.put(length);
    for (uint32_t id : ids) payload.put(id);
    std::string bytes(nbd::as_text(payload.bytes()));
    return server.run(client->request(
        {.length = bytes.size(), .command = Command::block_status, .flags = nbd::kCmdPayloadLen},
        bytes));
  };
  auto answers = ask(512, {1});
  REQUIRE(answers.size() == 1);
  auto chunk = nbd::parse_block_status(nbd::as_bytes(answers[0].payload), client->mode);
  CHECK(chunk->id() == 1);
  CHECK(chunk->extent(0).length == 512);
  for (auto& wrong :
       {ask(512, {2}), ask(512, {1, 1}), ask(512, {}), ask(2 << 20, {0}), ask(0, {0})}) {
    CHECK(error_of(wrong) == "22 invalid payload for BLOCK_STATUS");
  }
  CHECK(succeeded(server.run(client->request({.length = 16}))));
}
