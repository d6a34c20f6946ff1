// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd/request.h"

#include <catch2/catch.hpp>

#include <array>

#include "tests/unit/nbd/bytes.h"

using namespace strata::nbd;
using namespace strata::nbd::test;

namespace {

constexpr std::string_view kCompact =
    "25609513 0001 0001 0102030405060708 0000000100000000 00001000";
constexpr std::string_view kExtended =
    "21e41c71 0020 0001 0102030405060708 0000000100000000 0000000500001000";

}  // namespace

TEST_CASE("a compact request is 28 bytes") {
  auto bytes = hex(kCompact);
  REQUIRE(bytes.size() == request_size(ReplyMode::structured));
  auto request = decode_request(bytes.data(), ReplyMode::simple);
  REQUIRE(request);
  CHECK(*request == Request{.cookie = 0x0102030405060708,
                            .offset = 1ull << 32,
                            .length = 4096,
                            .command = Command::write,
                            .flags = kCmdFua});
  std::array<std::byte, kMaxRequestSize> out;
  std::size_t size = encode_request(out, *request, ReplyMode::simple);
  CHECK(to_hex(ConstBytes(out).first(size)) == plain(kCompact));
}

TEST_CASE("an extended request is 32 bytes with a 64-bit length") {
  auto bytes = hex(kExtended);
  REQUIRE(bytes.size() == request_size(ReplyMode::extended));
  auto request = decode_request(bytes.data(), ReplyMode::extended);
  REQUIRE(request);
  CHECK(request->length == 0x0000000500001000);
  CHECK(request->flags == kCmdPayloadLen);
  std::array<std::byte, kMaxRequestSize> out;
  std::size_t size = encode_request(out, *request, ReplyMode::extended);
  CHECK(to_hex(ConstBytes(out).first(size)) == plain(kExtended));
}

TEST_CASE("the magic of the other form is refused") {
  auto compact = hex(std::string(kCompact) + "00000000");
  CHECK(!decode_request(compact.data(), ReplyMode::extended));
  auto extended = hex(kExtended);
  CHECK(!decode_request(extended.data(), ReplyMode::structured));
}

TEST_CASE("a write carries a payload, and with extended headers so may any command") {
  Request write{.length = 10, .command = Command::write};
  CHECK(payload_length(write, ReplyMode::simple) == 10);
  CHECK(payload_length(write, ReplyMode::extended) == 10);
  Request read{.length = 10, .command = Command::read, .flags = kCmdPayloadLen};
  CHECK(payload_length(read, ReplyMode::structured) == 0);
  CHECK(payload_length(read, ReplyMode::extended) == 10);
  read.flags = 0;
  CHECK(payload_length(read, ReplyMode::extended) == 0);
}

TEST_CASE("a BLOCK_STATUS payload is a length and context ids") {
  auto payload = hex("0000000000010000 00000000 00000002");
  auto parsed = parse_status_payload(payload);
  REQUIRE(parsed);
  CHECK(parsed->effect_length == 65536);
  REQUIRE(parsed->count() == 2);
  CHECK(parsed->id(0) == 0);
  CHECK(parsed->id(1) == 2);
  CHECK(!parse_status_payload(hex("00000000000100")));
  CHECK(!parse_status_payload(hex("0000000000010000 000000")));
}
