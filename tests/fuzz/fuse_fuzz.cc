// SPDX-License-Identifier: GPL-2.0-or-later
//
// A kernel out of anywhere: its messages over a socket, as a queue of a FUSE export finds them at
// /dev/fuse. Whatever they ask for, each is answered once at most, by an answer that the real
// kernel would take, and the queue ends when it is told to.
//
// The input is a row of messages, each a head of four bytes (opcode, flags, length) and what
// follows it; with a flag the head of the message is made from them, or it is what comes.
#include <linux/fuse.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <set>
#include <vector>

#include "block/base/log.h"
#include "block/drivers/null/null.h"
#include "block/export/fuse/queue.h"
#include "block/graph/open.h"

using namespace strata;

// In the place of block/base/log.cc.
void strata::set_program_name(std::string_view) {}
std::string_view strata::program_name() noexcept {
  return "fuzz";
}
void strata::write_log_line(std::string_view) noexcept {}

namespace {

constexpr size_t kMostMessages = 64;
constexpr uint8_t kMakeHeader = 1;  // flags
constexpr uint8_t kReadOnly = 2;    // of the first message: of the file

class World {
 public:
  World() {
    qapi::BlockdevOptions options;
    options.select(qapi::BlockdevDriver::null_co);
    options.get_if<qapi::BlockdevOptionsNull>()->size = 1 << 20;
    NodePtr node = context_.run_to_completion(open_node(loop_, layer_, std::move(options)));
    PermissionSet needed{Permission::consistent_read, Permission::write};
    user_.attach(loop_, std::move(node), {needed, kAllPermissions});
  }

  void run(const uint8_t* data, size_t size) {
    std::array<int, 2> pair;
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair.data()) != 0)
      std::abort();
    bool writable = size < 2 || (data[1] & kReadOnly) == 0;
    UniqueFd kernel(pair[0]);
    fuse_export::ExportedFile file(
        loop_, user_, {.writable = writable, .growable = writable, .allow_other = true});
    fuse_export::Queue queue(context_, file, UniqueFd(pair[1]), [] {});
    send_all(kernel.get(), data, size);
    context_.run_to_completion(serve(queue));
    check_answers(kernel.get());
    if (user_.request_gate()->inside() != 0) std::abort();
  }

 private:
  // A turn for each batch, and some for what goes through the loop.
  Task<void> serve(fuse_export::Queue& queue) {
    co_await queue.start();
    for (size_t i = 0; i < kMostMessages; ++i) co_await context_.yield();
    co_await queue.stop();
  }

  void send_all(int socket, const uint8_t* data, size_t size) {
    asked_.clear();
    for (size_t sent = 0; sent < kMostMessages && size >= 4; ++sent) {
      const uint8_t* head = data;
      data += 4;
      size -= 4;
      size_t payload = std::min<size_t>(head[2] | head[3] << 8, size);
      if (!send(socket, head, data, payload)) return;
      data += payload;
      size -= payload;
    }
  }

  bool send(int socket, const uint8_t* head, const uint8_t* payload, size_t bytes) {
    std::vector<std::byte> message;
    if ((head[1] & kMakeHeader) != 0) {
      fuse_in_header header{};
      header.len = static_cast<uint32_t>(sizeof header + bytes);
      header.opcode = head[0];
      header.unique = asked_.size() + 1;
      header.nodeid = FUSE_ROOT_ID;
      message.resize(sizeof header);
      std::memcpy(message.data(), &header, sizeof header);
    }
    auto* body = reinterpret_cast<const std::byte*>(payload);
    message.insert(message.end(), body, body + bytes);
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

  AioContext context_{"main"};
  MainLoop loop_{context_};
  const DriverDescriptor* drivers_[1]{&kNullCoDriver};
  BlockLayer layer_{loop_, drivers_, [](std::string_view, boost::json::object) {}};
  Backend user_{layer_};
  std::multiset<uint64_t> asked_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World& world = *new World;  // outlives what ends with the process
  world.run(data, size);
  return 0;
}
