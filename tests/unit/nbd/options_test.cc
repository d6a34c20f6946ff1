// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd/options.h"

#include <catch2/catch.hpp>

#include "tests/unit/nbd/bytes.h"

using namespace strata::nbd;
using namespace strata::nbd::test;

namespace {

template <class T>
std::string fault_text(const Parsed<T>& parsed) {
  auto* fault = std::get_if<OptionFault>(&parsed);
  if (fault == nullptr) return "no fault";
  CHECK(fault->reply == OptionReply::err_invalid);
  return fault->text;
}

std::string info_fault(std::string_view digits) {
  auto payload = hex(digits);
  return fault_text(parse_info_option(Option::info, payload));
}

std::string meta_fault(std::string_view digits) {
  auto payload = hex(digits);
  return fault_text(parse_meta_option(Option::set_meta_context, payload));
}

}  // namespace

TEST_CASE("INFO names an export and lists the information wanted") {
  auto payload = hex("00000003 657870 0002 0003 0001");
  auto parsed = parse_info_option(Option::info, payload);
  auto* info = std::get_if<InfoOption>(&parsed);
  REQUIRE(info != nullptr);
  CHECK(info->name == "exp");
  CHECK(info->asks_for(Info::block_size));
  CHECK(info->asks_for(Info::name));
  CHECK(!info->asks_for(Info::description));

  Info wanted[] = {Info::block_size, Info::name};
  CHECK(to_hex(build_info_option("exp", wanted).bytes()) == to_hex(payload));
}

TEST_CASE("INFO for the default export has an empty name") {
  auto payload = hex("00000000 0000");
  auto parsed = parse_info_option(Option::go, payload);
  REQUIRE(std::holds_alternative<InfoOption>(parsed));
  CHECK(std::get<InfoOption>(parsed).name.empty());
}

TEST_CASE("an export name has at most 4096 bytes") {
  std::string name(4096, 'n');
  auto longest = build_info_option(name, {});
  auto parsed = parse_info_option(Option::go, longest.bytes());
  REQUIRE(std::holds_alternative<InfoOption>(parsed));
  CHECK(std::get<InfoOption>(parsed).name == name);
  auto too_long = build_info_option(name + 'n', {});
  CHECK(fault_text(parse_info_option(Option::go, too_long.bytes())) == "Invalid name length: 4097");
  CHECK(info_fault("ffffffff 657870") == "Invalid name length: 4294967295");
}

TEST_CASE("lengths in INFO that overrun the payload are refused") {
  CHECK(info_fault("") == "Inconsistent lengths in option info");
  CHECK(info_fault("000000") == "Inconsistent lengths in option info");
  CHECK(info_fault("00000064 616263") == "Inconsistent lengths in option info");
  CHECK(info_fault("00000003 657870") == "Inconsistent lengths in option info");
  CHECK(info_fault("00000003 657870 0005 0000") == "Inconsistent lengths in option info");
}

TEST_CASE("bytes after the last field of INFO are refused") {
  CHECK(info_fault("00000003 657870 0000 7878") == "option 'info' has unexpected length");
}

TEST_CASE("a name with a NUL is refused") {
  CHECK(info_fault("00000003 650070 0000") == "Unexpected embedded NUL in option info");
}

TEST_CASE("META_CONTEXT options list queries one by one") {
  std::string queries[] = {"base:allocation", "", "qemu:"};
  Message message = build_meta_option("exp", queries);
  CHECK(to_hex(message.bytes()) ==
        plain("00000003 657870 00000003 0000000f 626173653a616c6c6f636174696f6e 00000000 "
              "00000005 71656d753a"));
  auto parsed = parse_meta_option(Option::list_meta_context, message.bytes());
  auto* meta = std::get_if<MetaOption>(&parsed);
  REQUIRE(meta != nullptr);
  CHECK(meta->name == "exp");
  REQUIRE(meta->queries.left() == 3);
  CHECK(meta->queries.next() == "base:allocation");
  CHECK(meta->queries.next() == "");
  CHECK(meta->queries.next() == "qemu:");
  CHECK(meta->queries.left() == 0);
}

TEST_CASE("counts and lengths of queries that overrun the payload are refused") {
  std::string text = "Inconsistent lengths in option set meta context";
  CHECK(meta_fault("") == text);
  CHECK(meta_fault("00000003 657870") == text);
  CHECK(meta_fault("0000001e 657870") == text);
  CHECK(meta_fault("00000003 657870 00000002 00000005 626173653a") == text);
  CHECK(meta_fault("00000003 657870 00000001 00000032 626173653a") == text);
  CHECK(meta_fault("00000003 657870 ffffffff") == text);
  CHECK(meta_fault("00000003 657870 00000001 00000001 78 78") ==
        "option 'set meta context' has unexpected length");
  CHECK(meta_fault("00000003 657870 00000001 00000001 00") ==
        "Unexpected embedded NUL in option set meta context");
}

TEST_CASE("options without payload refuse one") {
  CHECK(!check_no_payload(Option::list, 0));
  auto fault = check_no_payload(Option::structured_reply, 1);
  REQUIRE(fault);
  CHECK(fault->reply == OptionReply::err_invalid);
  CHECK(fault->text == "option 'structured reply' has unexpected length");
}
