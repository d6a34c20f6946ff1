// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/unit/export_nbd/client.h"

using namespace strata;
using namespace strata::test;

namespace {

struct Greeted : NbdFixture {
  Greeted() {
    serve("disk");
    client = connect();
    run(client->greet());
  }
  std::vector<OptionAnswer> ask(Option option, nbd::Message payload = {}) {
    return run(client->option(option, std::move(payload)));
  }
  // The text of an option that is refused with `reply`.
  std::string refused(OptionReply reply, Option option, nbd::Message payload = {}) {
    auto answers = ask(option, std::move(payload));
    CHECK(answers.size() == 1);
    CHECK(answers.back().reply == reply);
    return answers.back().payload;
  }
  std::unique_ptr<Client> client;
};

nbd::Message text(std::string_view bytes) {
  nbd::Message message;
  message.put(bytes);
  return message;
}

std::vector<std::string> names_of(const std::vector<OptionAnswer>& answers) {
  std::vector<std::string> names;
  for (const OptionAnswer& answer : answers) {
    if (answer.reply == OptionReply::meta_context) names.push_back(answer.payload.substr(4));
  }
  return names;
}

}  // namespace

TEST_CASE("LIST names every export") {
  Greeted server;
  server.serve("other");
  auto answers = server.ask(Option::list);
  REQUIRE(answers.size() == 3);
  CHECK(nbd::parse_server_entry(nbd::as_bytes(answers[0].payload))->name == "disk");
  CHECK(nbd::parse_server_entry(nbd::as_bytes(answers[1].payload))->name == "other");
}

TEST_CASE("INFO tells sizes and flags and stays in the handshake") {
  Greeted server;
  nbd::Info wanted[] = {nbd::Info::name, nbd::Info::block_size};
  auto answers = server.ask(Option::info, nbd::build_info_option("disk", wanted));
  REQUIRE(answers.size() == 4);
  CHECK(answers[0].payload == std::string("\0\1disk", 6));
  auto sizes = nbd::parse_info_block_size(nbd::as_bytes(answers[1].payload).subspan(2));
  CHECK(sizes == nbd::BlockSizes{.minimum = 1, .preferred = 4096, .maximum = 32 << 20});
  auto size = nbd::parse_info_export(nbd::as_bytes(answers[2].payload).subspan(2));
  CHECK(size == nbd::ExportSize{.size = 1 << 20, .transmission_flags = 0x0d6d});
  CHECK(answers[3].reply == OptionReply::ack);
  CHECK(server.ask(Option::structured_reply).back().reply == OptionReply::ack);
  answers = server.ask(Option::info, nbd::build_info_option("disk", {}));
  size = nbd::parse_info_export(nbd::as_bytes(answers[1].payload).subspan(2));
  CHECK(size->transmission_flags == 0x0ded);
}

TEST_CASE("block sizes come from the node, and bind only who asks for them") {
  NbdFixture server;
  server.behaviour.limits.request_alignment = 4096;
  server.behaviour.limits.max_transfer = 1 << 20;
  server.serve("disk");
  auto client = server.connect();
  server.run(client->greet());
  auto ask = [&](Option option, std::span<const nbd::Info> wanted) {
    return server.run(client->option(option, nbd::build_info_option("disk", wanted)));
  };
  nbd::Info wanted[] = {nbd::Info::block_size};
  auto answers = ask(Option::info, wanted);
  auto sizes = nbd::parse_info_block_size(nbd::as_bytes(answers[0].payload).subspan(2));
  CHECK(sizes == nbd::BlockSizes{.minimum = 4096, .preferred = 4096, .maximum = 1 << 20});
  answers = ask(Option::info, {});
  CHECK(answers.back().reply == OptionReply::err_block_size_reqd);
  CHECK(answers.back().payload == "request NBD_INFO_BLOCK_SIZE to use this export");
  answers = ask(Option::go, {});
  sizes = nbd::parse_info_block_size(nbd::as_bytes(answers[0].payload).subspan(2));
  CHECK(sizes->minimum == 1);
  CHECK(answers.back().reply == OptionReply::ack);
}

TEST_CASE("options that are not possible are refused with QEMU's texts") {
  Greeted server;
  CHECK(server.refused(OptionReply::err_unknown, Option::info,
                       nbd::build_info_option("nope", {})) == "export 'nope' not present");
  CHECK(server.refused(OptionReply::err_unknown, Option::go,
                       nbd::build_info_option(std::string(4096, 'n'), {})) ==
        "export '" + std::string(80, 'n') + "...' not present");
  CHECK(server.refused(OptionReply::err_unsup, static_cast<Option>(99), text("abc")) ==
        "Unsupported option 99 (<unknown>)");
  CHECK(server.refused(OptionReply::err_policy, Option::starttls) == "TLS not configured");
  CHECK(server.refused(OptionReply::err_invalid, Option::list, text("abc")) ==
        "option 'list' has unexpected length");
  CHECK(server.refused(OptionReply::err_invalid, Option::set_meta_context) ==
        "request option 'set meta context' when structured reply is not negotiated");
  server.ask(Option::structured_reply);
  CHECK(server.refused(OptionReply::err_invalid, Option::structured_reply) ==
        "structured reply already negotiated");
  server.ask(Option::extended_headers);
  CHECK(server.refused(OptionReply::err_ext_header_reqd, Option::structured_reply) ==
        "extended headers already negotiated");
}

TEST_CASE("an option that is too long is skipped, and the next one understood") {
  Greeted server;
  nbd::Message payload;
  payload.put_zeroes(nbd::kMaxInfoOption + 1);
  auto answers = server.ask(Option::info, std::move(payload));
  CHECK(answers.back().reply == OptionReply::err_too_big);
  CHECK(server.ask(Option::list).back().reply == OptionReply::ack);
}

TEST_CASE("an option of more than 32 MiB ends the connection") {
  Greeted server;
  auto header = nbd::encode_option_header({.option = Option::list, .length = nbd::kMaxPayload + 1});
  server.run(server.client->send(header));
  CHECK(server.run(server.client->at_end()));
}

TEST_CASE("ABORT is acknowledged and ends the connection") {
  Greeted server;
  CHECK(server.ask(Option::abort, text("why not")).back().reply == OptionReply::ack);
  CHECK(server.run(server.client->at_end()));
}

TEST_CASE("client flags that were not offered end the connection") {
  NbdFixture server;
  auto client = server.connect();
  server.run(client->greet(4));
  CHECK(server.run(client->at_end()));
}

TEST_CASE("EXPORT_NAME enters transmission, or ends the connection") {
  NbdFixture server;
  server.serve("disk", false);
  bool known = GENERATE(true, false);
  auto client = server.connect();
  server.run(client->greet());
  std::string name = known ? "disk" : "nope";
  server.run(client->send(nbd::encode_option_header({.option = Option::export_name, .length = 4})));
  server.run(client->send(nbd::as_bytes(name)));
  if (!known) {
    CHECK(server.run(client->at_end()));
    return;
  }
  std::string reply = server.run(client->receive(nbd::kExportNameReplySize));
  auto size =
      nbd::decode_export_name_reply(nbd::as_bytes(reply).first<nbd::kExportNameReplySize>());
  CHECK(size == nbd::ExportSize{.size = 1 << 20, .transmission_flags = 0x050f});
  CHECK(server.run(client->request({.length = 8})).back().payload == std::string(8, '\0'));
}

TEST_CASE("meta contexts are listed by wildcard and set by name") {
  Greeted server;
  server.ask(Option::structured_reply);
  auto ask = [&](Option option, std::vector<std::string> queries) {
    return server.ask(option, nbd::build_meta_option("disk", queries));
  };
  using Names = std::vector<std::string>;
  Names both = {"base:allocation", "qemu:allocation-depth"};
  CHECK(names_of(ask(Option::list_meta_context, {})) == both);
  CHECK(names_of(ask(Option::list_meta_context, {"base:"})) == Names{"base:allocation"});
  CHECK(names_of(ask(Option::set_meta_context, {"base:", "qemu:"})) == Names{});
  auto answers = ask(Option::set_meta_context, {"qemu:allocation-depth", "foo:bar"});
  REQUIRE(answers.size() == 2);
  auto entry = nbd::parse_meta_context(nbd::as_bytes(answers[0].payload));
  CHECK(entry->id == 1);
}
