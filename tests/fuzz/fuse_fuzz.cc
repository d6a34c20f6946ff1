// SPDX-License-Identifier: GPL-2.0-or-later
//
// A kernel out of anywhere: its messages over a socket, as a queue of a FUSE export finds them at
// /dev/fuse. Whatever they ask for, each is answered once at most, by an answer that the real
// kernel would take, and the queue ends when it is told to.
//
// The input is a row of messages, each a head of four bytes (opcode, flags, length) and what
// follows it; with a flag the head of the message is made from them, or it is what comes.
#include <linux/fuse.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <set>
#include <vector>

#include "block/export/fuse/queue.h"
#include "tests/fuzz/served_node.h"

using namespace strata;
using namespace strata::fuzz;

namespace {

constexpr uint8_t kMakeHeader = 1;  // flags
constexpr uint8_t kReadOnly = 2;    // of the first message: of the file

class World {
 public:
  void run(const uint8_t* data, size_t size) {
    auto [kernel, device] = connected(SOCK_SEQPACKET);
    bool writable = size < 2 || (data[1] & kReadOnly) == 0;
    fuse_export::ExportedFile file(
        node_.loop, node_.user, {.writable = writable, .growable = writable, .allow_other = true});
    fuse_export::Queue queue(node_.context, file, std::move(device), [] {});
    send_all(kernel.get(), data, size);
    node_.context.run_to_completion(serve(queue));
    check_answers(kernel.get());
    node_.require_idle();
  }

 private:
  // A turn for each batch, and some for what goes through the loop.
  Task<void> serve(fuse_export::Queue& queue) {
    co_await queue.start();
    for (size_t i = 0; i < kMostMessages; ++i) co_await node_.context.yield();
    co_await queue.stop();
  }

  void send_all(int socket, const uint8_t* data, size_t size) {
    asked_.clear();
    for_each_message(
        data, size, [](const uint8_t* head) { return head[2] | head[3] << 8; },
        [&](const Message& message) { return send(socket, message); });
  }

  bool send(int socket, const Message& said) {
    const uint8_t* head = said.head;
    std::vector<std::byte> message;
    if ((head[1] & kMakeHeader) != 0) {
      fuse_in_header header{};
      header.len = static_cast<uint32_t>(sizeof header + said.bytes);
      header.opcode = head[0];
      header.unique = asked_.size() + 1;
      header.nodeid = FUSE_ROOT_ID;
      message.resize(sizeof header);
      std::memcpy(message.data(), &header, sizeof header);
    }
    auto* body = reinterpret_cast<const std::byte*>(said.payload);
    message.insert(message.end(), body, body + said.bytes);
    if (message.empty()) return true;  // there is no such message
    uint64_t unique = 0;
    if (message.size() >= sizeof(fuse_in_header))
      std::memcpy(&unique, message.data() + offsetof(fuse_in_header, unique), sizeof unique);
    asked_.insert(unique);
    return ::send(socket, message.data(), message.size(), MSG_NOSIGNAL) >= 0;
  }

  void check_answers(int socket) {
    static std::vector<std::byte> answer(fuse_export::kMostData + 4096);
    for (;;) {
      ssize_t got = ::recv(socket, answer.data(), answer.size(), 0);
      if (got <= 0) return;
      fuse_out_header header;
      if (static_cast<size_t>(got) < sizeof header) std::abort();
      std::memcpy(&header, answer.data(), sizeof header);
      bool sound = header.len == static_cast<size_t>(got) && header.error <= 0 &&
                   header.error > -1000 && (header.error == 0 || header.len == sizeof header);
      auto found = asked_.find(header.unique);
      if (!sound || header.unique == 0 || found == asked_.end()) std::abort();
      asked_.erase(found);
    }
  }

  ServedNode node_;
  std::multiset<uint64_t> asked_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World& world = *new World;  // outlives what ends with the process
  world.run(data, size);
  return 0;
}
