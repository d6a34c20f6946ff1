// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd/option_replies.h"

#include <catch2/catch.hpp>

#include "tests/unit/nbd/bytes.h"

using namespace strata::nbd;
using namespace strata::nbd::test;

namespace {

constexpr std::string_view kMagic = "0003e889045565a9";

std::string reply(std::string_view rest) {
  return plain(std::string(kMagic) + std::string(rest));
}

}  // namespace

TEST_CASE("ACK has no payload") {
  CHECK(to_hex(build_ack(Option::abort).bytes()) == reply("00000002 00000001 00000000"));
}

TEST_CASE("an error carries its text, cut to 4096 bytes at a character") {
  CHECK(to_hex(build_error(Option::info, OptionReply::err_unknown, "no").bytes()) ==
        reply("00000006 80000006 00000002 6e6f"));
  std::string longest = std::string(4095, 'x') + "\xc3\xa9" + "y";
  CHECK(clip_string(longest) == std::string(4095, 'x'));
  CHECK(clip_string(std::string(5000, 'x')).size() == 4096);
  CHECK(clip_string(std::string(5000, '\x80')).size() == 4096);
  CHECK(build_error(Option::info, OptionReply::err_unknown, longest).bytes().size() == 20 + 4095);
}

TEST_CASE("LIST answers with name and description") {
  Message message = build_server_entry({.name = "exp", .description = "hello"});
  CHECK(to_hex(message.bytes()) == reply("00000003 00000002 0000000c 00000003 657870 68656c6c6f"));
  auto entry = parse_server_entry(message.bytes().subspan(20));
  REQUIRE(entry);
  CHECK(entry->name == "exp");
  CHECK(entry->description == "hello");
  CHECK(!parse_server_entry(hex("00000004 657870")));
  CHECK(!parse_server_entry(hex("0000")));
  CHECK(!parse_server_entry(hex("00000001 00")));
}

TEST_CASE("INFO EXPORT is ten bytes after its type") {
  ExportSize size{.size = 1 << 20, .transmission_flags = 0x0ded};
  Message message = build_info_export(Option::go, size);
  CHECK(to_hex(message.bytes()) == reply("00000007 00000003 0000000c 0000 0000000000100000 0ded"));
  auto info = parse_info_reply(message.bytes().subspan(20));
  REQUIRE(info);
  CHECK(info->info == Info::export_);
  CHECK(parse_info_export(info->payload) == size);
  CHECK(!parse_info_export(info->payload.first(9)));
  CHECK(!parse_info_reply(hex("00")));
}

TEST_CASE("INFO NAME and DESCRIPTION carry text") {
  CHECK(to_hex(build_info_text(Option::info, Info::description, "hello").bytes()) ==
        reply("00000006 00000003 00000007 0002 68656c6c6f"));
}

TEST_CASE("block sizes that the protocol forbids are refused") {
  BlockSizes sizes{.minimum = 1, .preferred = 4096, .maximum = 32u << 20};
  Message message = build_info_block_size(Option::info, sizes);
  CHECK(to_hex(message.bytes()) ==
        reply("00000006 00000003 0000000e 0003 00000001 00001000 02000000"));
  CHECK(parse_info_block_size(message.bytes().subspan(22)) == sizes);
  CHECK(parse_info_block_size(hex("00010000 00010000 ffffffff")));
  CHECK(!parse_info_block_size(hex("00000000 00001000 02000000")));
  CHECK(!parse_info_block_size(hex("00000003 00001000 02000000")));
  CHECK(!parse_info_block_size(hex("00020000 00020000 02000000")));
  CHECK(!parse_info_block_size(hex("00000001 00000100 02000000")));
  CHECK(!parse_info_block_size(hex("00001000 00000200 02000000")));
  CHECK(!parse_info_block_size(hex("00000001 00001000 00000fff")));
  CHECK(!parse_info_block_size(hex("00000001 00001000 02000000 00")));
}

TEST_CASE("a meta context has an id and a name") {
  Message message =
      build_meta_context(Option::set_meta_context, {.id = 1, .name = "qemu:allocation-depth"});
  CHECK(to_hex(message.bytes()) ==
        reply("0000000a 00000004 00000019 00000001 71656d753a616c6c6f636174696f6e2d6465707468"));
  auto entry = parse_meta_context(message.bytes().subspan(20));
  REQUIRE(entry);
  CHECK(entry->id == 1);
  CHECK(entry->name == "qemu:allocation-depth");
  CHECK(!parse_meta_context(hex("000000")));
}
