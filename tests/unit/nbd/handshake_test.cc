// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd/handshake.h"

#include <catch2/catch.hpp>

#include "tests/unit/nbd/bytes.h"

using namespace strata::nbd;
using namespace strata::nbd::test;

TEST_CASE("the greeting is NBDMAGIC, IHAVEOPT and the flags") {
  auto greeting = encode_greeting(kFlagFixedNewstyle | kFlagNoZeroes);
  CHECK(as_text(ConstBytes(greeting).first(16)) == "NBDMAGICIHAVEOPT");
  CHECK(to_hex(greeting) == plain("4e42444d41474943 49484156454f5054 0003"));
  auto decoded = decode_greeting(greeting);
  REQUIRE(decoded);
  CHECK(!decoded->oldstyle);
  CHECK(decoded->handshake_flags == 3);
}

TEST_CASE("an oldstyle greeting is told apart, and anything else is refused") {
  auto bytes = hex("4e42444d41474943 0000420281861253 0000");
  auto oldstyle = decode_greeting(std::span<const std::byte, kGreetingSize>(bytes));
  REQUIRE(oldstyle);
  CHECK(oldstyle->oldstyle);
  bytes[0] = std::byte{'X'};
  CHECK(!decode_greeting(std::span<const std::byte, kGreetingSize>(bytes)));
  bytes = hex("4e42444d41474943 0000420281861254 0000");
  CHECK(!decode_greeting(std::span<const std::byte, kGreetingSize>(bytes)));
}

TEST_CASE("client flags beyond those offered are unknown") {
  CHECK(client_flags_known(0));
  CHECK(client_flags_known(3));
  CHECK(!client_flags_known(4));
  CHECK(!client_flags_known(0x80000001));
}

TEST_CASE("an option header carries magic, option and length") {
  auto header = encode_option_header({.option = Option::go, .length = 0x1234});
  CHECK(to_hex(header) == plain("49484156454f5054 00000007 00001234"));
  auto decoded = decode_option_header(header);
  REQUIRE(decoded);
  CHECK(decoded->option == Option::go);
  CHECK(decoded->length == 0x1234);
  header[7] = std::byte{0};
  CHECK(!decode_option_header(header));
}

TEST_CASE("an option reply header carries magic, option, type and length") {
  auto header = encode_option_reply_header(
      {.option = Option::list, .reply = OptionReply::err_invalid, .length = 5});
  CHECK(to_hex(header) == plain("0003e889045565a9 00000003 80000003 00000005"));
  auto decoded = decode_option_reply_header(header);
  REQUIRE(decoded);
  CHECK(decoded->option == Option::list);
  CHECK(decoded->reply == OptionReply::err_invalid);
  CHECK(is_error(decoded->reply));
  CHECK(decoded->length == 5);
  header[0] = std::byte{1};
  CHECK(!decode_option_reply_header(header));
}

TEST_CASE("the reply to EXPORT_NAME has 124 zeroes unless NO_ZEROES was agreed on") {
  ExportSize size{.size = 1 << 20, .transmission_flags = 0x0d6d};
  Message brief = encode_export_name_reply(size, true);
  CHECK(to_hex(brief.bytes()) == plain("0000000000100000 0d6d"));
  CHECK(decode_export_name_reply(brief.bytes().first<kExportNameReplySize>()) == size);
  Message padded = encode_export_name_reply(size, false);
  REQUIRE(padded.bytes().size() == 134);
  for (std::byte byte : padded.bytes().subspan(10)) CHECK(byte == std::byte{0});
}
