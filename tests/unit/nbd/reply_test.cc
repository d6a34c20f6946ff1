// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd/reply.h"

#include <catch2/catch.hpp>

#include "tests/unit/nbd/bytes.h"

using namespace strata::nbd;
using namespace strata::nbd::test;

namespace {

const Request kRead{
    .cookie = 0x1122334455667788, .offset = 0x1000, .length = 0x2000, .command = Command::read};
const Request kFlush{.cookie = 7, .command = Command::flush};

class Buffer {
 public:
  operator ReplyBuffer() { return bytes_; }
  std::string first(std::size_t size) const { return to_hex(ConstBytes(bytes_).first(size)); }

 private:
  std::array<std::byte, kReplyHeaderRoom> bytes_{};
};

}  // namespace

TEST_CASE("a simple reply is 16 bytes") {
  Buffer out;
  CHECK(out.first(encode_simple_reply(out, 7, WireError::einval)) ==
        plain("67446698 00000016 0000000000000007"));
}

TEST_CASE("success of a flush is a simple reply, a chunk only with extended headers") {
  Buffer out;
  std::string simple = plain("67446698 00000000 0000000000000007");
  CHECK(out.first(encode_success(out, ReplyMode::simple, kFlush)) == simple);
  CHECK(out.first(encode_success(out, ReplyMode::structured, kFlush)) == simple);
  CHECK(out.first(encode_success(out, ReplyMode::extended, kFlush)) ==
        plain("6e8a278c 0001 0000 0000000000000007 0000000000000000 0000000000000000"));
}

TEST_CASE("success of a structured read is a chunk") {
  Buffer out;
  CHECK(out.first(encode_success(out, ReplyMode::structured, kRead)) ==
        plain("668e33ef 0001 0000 1122334455667788 00000000"));
}

TEST_CASE("data is announced with its offset") {
  Buffer out;
  CHECK(out.first(encode_data(out, ReplyMode::simple, kRead, 0x1000, 0x2000, true)) ==
        plain("67446698 00000000 1122334455667788"));
  CHECK(out.first(encode_data(out, ReplyMode::structured, kRead, 0x1000, 0x2000, true)) ==
        plain("668e33ef 0001 0001 1122334455667788 00002008 0000000000001000"));
  CHECK(out.first(encode_data(out, ReplyMode::extended, kRead, 0x1800, 0x200, false)) ==
        plain("6e8a278c 0000 0001 1122334455667788 0000000000001000 0000000000000208 "
              "0000000000001800"));
}

TEST_CASE("a hole has a 32-bit size in both chunk forms") {
  Buffer out;
  CHECK(out.first(encode_hole(out, ReplyMode::structured, kRead, 0x1000, 0x2000, true)) ==
        plain("668e33ef 0001 0002 1122334455667788 0000000c 0000000000001000 00002000"));
  std::size_t size = encode_hole(out, ReplyMode::extended, kRead, 0x1000, 0x2000, false);
  CHECK(out.first(size) == plain("6e8a278c 0000 0002 1122334455667788 0000000000001000 "
                                 "000000000000000c 0000000000001000 00002000"));
  CHECK(parse_hole_chunk(hex("0000000000001000 00002000"))->length == 0x2000);
  CHECK(!parse_hole_chunk(hex("0000000000001000 00000000")));
  CHECK(!parse_hole_chunk(hex("0000000000001000 000020")));
  CHECK(!parse_hole_chunk(hex("0000000000001000 00002000 00")));
}

TEST_CASE("an error chunk announces its text") {
  Buffer out;
  CHECK(out.first(encode_error(out, ReplyMode::simple, kRead, WireError::eio, 0)) ==
        plain("67446698 00000005 1122334455667788"));
  CHECK(out.first(encode_error(out, ReplyMode::structured, kRead, WireError::eio, 4)) ==
        plain("668e33ef 0001 8001 1122334455667788 0000000a 00000005 0004"));
  CHECK(out.first(encode_error(out, ReplyMode::extended, kRead, WireError::eio, 4)) ==
        plain("6e8a278c 0001 8001 1122334455667788 0000000000001000 000000000000000a "
              "00000005 0004"));
}

TEST_CASE("error chunks whose lengths disagree are refused") {
  auto payload = hex("00000005 0004 6f6f7073");
  auto error = parse_error_chunk(ReplyType::error, payload);
  REQUIRE(error);
  CHECK(error->error == WireError::eio);
  CHECK(error->text == "oops");
  CHECK(!error->offset);
  auto at = parse_error_chunk(ReplyType::error_offset, hex("00000005 0000 0000000000001000"));
  REQUIRE(at);
  CHECK(at->offset == 0x1000);
  CHECK(!parse_error_chunk(ReplyType::error, hex("00000005 0005 6f6f7073")));
  CHECK(!parse_error_chunk(ReplyType::error, hex("00000000 0000")));
  CHECK(!parse_error_chunk(ReplyType::error, hex("00000005 0000 00")));
  CHECK(!parse_error_chunk(ReplyType::error_offset, hex("00000005 0000 00000000")));
  CHECK(parse_error_chunk(static_cast<ReplyType>(0x8009), hex("00000005 0000 001122")));
}

TEST_CASE("a block status chunk has a count only with extended headers") {
  Buffer out;
  CHECK(out.first(encode_block_status(out, ReplyMode::structured, kRead, 1, 2, true)) ==
        plain("668e33ef 0001 0005 1122334455667788 00000014 00000001"));
  CHECK(out.first(encode_block_status(out, ReplyMode::extended, kRead, 1, 2, false)) ==
        plain("6e8a278c 0000 0006 1122334455667788 0000000000001000 0000000000000028 "
              "00000001 00000002"));
}

TEST_CASE("a reply header is decoded only in the modes that allow it") {
  auto simple = hex("67446698 00000016 0000000000000007");
  auto structured = hex("668e33ef 0001 0001 1122334455667788 00002008");
  auto extended = hex("6e8a278c 0000 0001 1122334455667788 0000000000001000 0000000000000208");

  auto header = decode_reply_header(simple, ReplyMode::structured);
  REQUIRE(header);
  CHECK((header->simple && header->done()));
  CHECK(header->error == WireError::einval);
  CHECK(header->cookie == 7);
  CHECK(!decode_reply_header(simple, ReplyMode::extended));

  header = decode_reply_header(structured, ReplyMode::structured);
  REQUIRE(header);
  CHECK(header->type == ReplyType::offset_data);
  CHECK((!header->simple && header->done()));
  CHECK(header->length == 0x2008);
  CHECK(!decode_reply_header(structured, ReplyMode::simple));
  CHECK(!decode_reply_header(structured, ReplyMode::extended));

  header = decode_reply_header(extended, ReplyMode::extended);
  REQUIRE(header);
  CHECK(header->offset == 0x1000);
  CHECK(header->length == 0x208);
  CHECK(!header->done());
  CHECK(!decode_reply_header(extended, ReplyMode::structured));
  CHECK(!decode_reply_header(ConstBytes(extended).first(20), ReplyMode::extended));
  CHECK(!decode_reply_header({}, ReplyMode::extended));
}

TEST_CASE("a chunk lies within its request without wrapping round") {
  CHECK(within(kRead, 0x1000, 0x2000));
  CHECK(within(kRead, 0x2fff, 1));
  CHECK(!within(kRead, 0x2fff, 2));
  CHECK(!within(kRead, 0x0fff, 2));
  CHECK(!within(kRead, 0x3000, 1));
  CHECK(!within(kRead, 0x1000, 0));
  CHECK(!within(kRead, 0x2000, UINT64_MAX - 0x1000));
}
