// SPDX-License-Identifier: GPL-2.0-or-later
//
// A registry with an NBD server on an abstract Unix socket, and a client of it, in one loop.
#pragma once

#include <catch2/catch.hpp>

#include <memory>
#include <string>
#include <vector>

#include "block/aio/socket_connect.h"
#include "block/aio/socket_stream.h"
#include "block/drivers/null/null.h"
#include "block/export/nbd/service.h"
#include "block/export/registry.h"
#include "block/nbd/handshake.h"
#include "block/nbd/option_replies.h"
#include "block/nbd/options.h"
#include "block/nbd/reply.h"
#include "block/nbd/request.h"
#include "tests/unit/support/memory_driver.h"

namespace strata::test {

using nbd::Command;
using nbd::Option;
using nbd::OptionReply;
using nbd::ReplyMode;
using nbd::ReplyType;

// One reply of the server to an option.
struct OptionAnswer {
  OptionReply reply{};
  std::string payload;
};

// One message of the transmission phase.
struct Answer {
  nbd::ReplyHeader header;
  std::string payload;
};

class Client {
 public:
  Client(AioContext& context, UniqueFd fd) : stream(context, std::move(fd)) {}

  Task<std::string> receive(size_t size) {
    std::string data(size, '\0');
    Status status = co_await stream.read_exactly(IoVector::buffer(data.data(), size));
    if (!status.ok()) throw Error("the server has closed the connection");
    co_return data;
  }
  Task<void> send(nbd::ConstBytes bytes) {
    Status status = co_await stream.write_all(bytes);
    if (!status.ok()) throw Error("the server does not receive");
  }
  // Whether nothing more comes.
  Task<bool> at_end() {
    char byte;
    Result<size_t> got = co_await stream.read_some(IoVector::buffer(&byte, 1));
    co_return !got.ok() || *got == 0;
  }

  Task<void> greet(uint32_t flags = 3) {
    std::string greeting = co_await receive(nbd::kGreetingSize);
    nbd::Message answer;
    answer.put(flags);
    co_await send(answer.bytes());
  }
  // All replies to an option.
  Task<std::vector<OptionAnswer>> option(Option option, nbd::Message payload = {}) {
    auto length = static_cast<uint32_t>(payload.bytes().size());
    co_await send(nbd::encode_option_header({.option = option, .length = length}));
    co_await send(payload.bytes());
    std::vector<OptionAnswer> answers;
    do {
      std::string bytes = co_await receive(nbd::kOptionReplyHeaderSize);
      auto header = nbd::decode_option_reply_header(
          nbd::as_bytes(bytes).first<nbd::kOptionReplyHeaderSize>());
      if (!header || header->option != option) throw Error("a reply to another option");
      answers.push_back({header->reply, co_await receive(header->length)});
    } while (answers.back().reply != OptionReply::ack && !is_error(answers.back().reply));
    co_return answers;
  }
  // From the greeting into the transmission phase. Throws where the server refuses.
  Task<void> enter(std::string name, ReplyMode wanted, std::vector<std::string> contexts = {}) {
    mode = wanted;
    co_await greet();
    if (mode == ReplyMode::structured) co_await option(Option::structured_reply);
    if (mode == ReplyMode::extended) co_await option(Option::extended_headers);
    if (!contexts.empty()) {
      co_await option(Option::set_meta_context, nbd::build_meta_option(name, contexts));
    }
    auto answers = co_await option(Option::go, nbd::build_info_option(name, {}));
    if (answers.back().reply != OptionReply::ack) throw Error("GO: {}", answers.back().payload);
  }

  Task<void> ask(nbd::Request request, std::string data = "") {
    std::array<std::byte, nbd::kMaxRequestSize> bytes;
    size_t size = nbd::encode_request(bytes, request, mode);
    co_await send(nbd::ConstBytes(bytes).first(size));
    co_await send(nbd::as_bytes(data));
  }
  // The next message; `read_length` is what follows a simple reply that is no error.
  Task<Answer> hear(size_t read_length = 0) {
    std::string bytes = co_await receive(4);
    auto size = nbd::reply_header_size(nbd::load<uint32_t>(nbd::as_bytes(bytes).data()), mode);
    if (!size) throw Error("a reply of no known form");
    bytes += co_await receive(*size - 4);
    Answer answer{.header = *nbd::decode_reply_header(nbd::as_bytes(bytes), mode)};
    bool simple_data = answer.header.simple && answer.header.error == nbd::WireError::none;
    answer.payload = co_await receive(simple_data ? read_length : answer.header.length);
    co_return answer;
  }
  // Asks, and hears the whole answer.
  Task<std::vector<Answer>> request(nbd::Request request, std::string data = "") {
    co_await ask(request, std::move(data));
    std::vector<Answer> answers;
    size_t read_length = request.command == Command::read ? request.length : 0;
    do {
      answers.push_back(co_await hear(read_length));
    } while (!answers.back().header.done());
    co_return answers;
  }

  SocketStream stream;
  ReplyMode mode = ReplyMode::simple;
};

// The errno and the text of a reply that is one error.
inline std::string error_of(const std::vector<Answer>& answers) {
  const Answer& last = answers.back();
  if (last.header.simple) return fmt::format("{}", static_cast<uint32_t>(last.header.error));
  auto chunk = nbd::parse_error_chunk(last.header.type, nbd::as_bytes(last.payload));
  if (!chunk) return "no error";
  return fmt::format("{} {}", static_cast<uint32_t>(chunk->error), chunk->text);
}

class NbdFixture : public Fixture {
 public:
  explicit NbdFixture(nbd_export::ServerLimits limits = {}) {
    static int count = 0;
    address_.path = fmt::format("strata-unit-{}-{}", ::getpid(), ++count);
    address_.abstract = true;
    run(service.start(loop, "", address_, limits));
  }
  ~NbdFixture() {
    run(registry.remove_all(loop));
    run(service.stop_all(loop));
    for (NodePtr& node : nodes_) run(layer.release(loop, std::move(node)));
  }

  // Exports a fresh memory node of the same name.
  Node& serve(const std::string& name, bool writable = true, int64_t size = 1 << 20) {
    nodes_.push_back(open_memory(name, size));
    run(registry.add(loop, options_for(name, writable)));
    return *nodes_.back();
  }
  qapi::BlockExportOptions options_for(const std::string& name, bool writable) {
    qapi::BlockExportOptions options;
    options.id = name;
    options.node_name = name;
    options.writable = writable;
    options.select(qapi::BlockExportType::nbd);
    options.get_if<qapi::BlockExportOptionsNbd>()->allocation_depth = true;
    return options;
  }
  std::unique_ptr<Client> connect() {
    PassedFds none;
    return std::make_unique<Client>(context, run(connect_to(context, address_, none)));
  }
  std::unique_ptr<Client> enter(const std::string& name, ReplyMode mode,
                                std::vector<std::string> contexts = {}) {
    auto client = connect();
    run(client->enter(name, mode, std::move(contexts)));
    return client;
  }
  // Lets everything that can happen without a timer happen.
  void settle() {
    struct Wait {
      static Task<void> turns(AioContext& context) {
        for (int i = 0; i < 100; ++i) co_await context.yield();
      }
    };
    run(Wait::turns(context));
  }

  PassedFds passed;
  ExportRegistry registry{layer, [](const std::string& name) -> AioContext& {
                            throw Error("iothread \"{}\" not found", name);
                          }};
  NbdService service{registry, passed};

 private:
  UnixAddress address_;
  std::vector<NodePtr> nodes_;
};

}  // namespace strata::test
