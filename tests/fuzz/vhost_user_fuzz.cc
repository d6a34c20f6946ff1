// SPDX-License-Identifier: GPL-2.0-or-later
//
// A front end out of anywhere: its messages, with descriptors of every kind, over a socket to a
// session with two queues. Whatever it says, the session ends when it hangs up, and leaves nothing.
//
// The input is a row of messages, each a head of four bytes and a payload, and behind a message of
// number 0 what the guest's memory holds.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "block/base/error.h"
#include "block/export/vhost_user/session.h"
#include "tests/fuzz/served_node.h"
#include "tests/support/vring.h"

using namespace strata;
using namespace strata::fuzz;

namespace {

constexpr size_t kMemoryBytes = 256 << 10;

// What is the same for all inputs.
class World {
 public:
  World() {
    traits_.export_id = "fuzz";
    traits_.device.writable = true;
    traits_.device.serial = "fuzz";
    traits_.contexts = {&node_.context, &node_.context};
    int ends[2];
    if (::pipe(ends) != 0) std::abort();
    fds_ = {guest_.fd(),
            ::eventfd(1, EFD_NONBLOCK),
            ::eventfd(0, 0),
            ::open("/dev/null", O_RDWR | O_CLOEXEC),
            ::open("/", O_PATH | O_CLOEXEC),
            ends[1],
            guest_.fd(),
            ::memfd_create("short", MFD_CLOEXEC)};
  }

  void run(const uint8_t* data, size_t size) {
    {
      auto [front_end, back_end] = connected(SOCK_STREAM);
      vhost_user::Session session(node_.loop, std::move(back_end), node_.user, traits_);
      std::memset(guest_.data(), 0, guest_.size());
      send_all(front_end.get(), data, size);
      ::shutdown(front_end.get(), SHUT_WR);
      node_.context.run_to_completion(session.run());
    }
    node_.require_idle();
  }

 private:
  void send_all(int socket, const uint8_t* data, size_t size) {
    for_each_message(
        data, size, [](const uint8_t* head) { return head[2]; },
        [&](const Message& message) {
          if (message.head[0] != 0) return send(socket, message);
          size_t bytes = std::min(message.all_that_follows, guest_.size());
          std::memcpy(guest_.data(), message.payload, bytes);
          return false;
        });
  }

  bool send(int socket, const Message& said) {
    const uint8_t* head = said.head;
    bool whole = (head[1] & 0x40) == 0;
    std::array<uint32_t, 3> words{head[0], (head[1] & 0x80) != 0 ? head[1] : 1u | (head[1] & 8u),
                                  static_cast<uint32_t>(said.bytes + (whole ? 0 : head[3]))};
    std::array<iovec, 2> parts{iovec{words.data(), sizeof words},
                               iovec{const_cast<uint8_t*>(said.payload), said.bytes}};
    std::array<int, 9> fds;
    size_t count = std::min<size_t>(head[3] & 15, fds.size());
    for (size_t i = 0; i < count; ++i) fds[i] = fds_[(head[3] >> 4) % fds_.size()];
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof fds)> control{};
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = parts.size();
    if (count != 0) {
      message.msg_control = control.data();
      message.msg_controllen = CMSG_SPACE(count * sizeof(int));
      cmsghdr* rights = CMSG_FIRSTHDR(&message);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(count * sizeof(int));
      std::memcpy(CMSG_DATA(rights), fds.data(), count * sizeof(int));
    }
    return ::sendmsg(socket, &message, MSG_NOSIGNAL) >= 0;
  }

  ServedNode node_;
  vhost_user::SessionTraits traits_;
  test::FakeGuest guest_{kMemoryBytes};
  std::array<int, 8> fds_{};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World& world = *new World;  // outlives what ends with the process
  world.run(data, size);
  return 0;
}
