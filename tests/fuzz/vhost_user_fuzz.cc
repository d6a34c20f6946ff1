// SPDX-License-Identifier: GPL-2.0-or-later
//
// A front end out of anywhere: its messages, with descriptors of every kind, over a socket to a
// session with two queues. Whatever it says, the session ends when it hangs up, and leaves nothing.
//
// The input is a row of messages, each a head of four bytes and a payload, and behind a message of
// number 0 what the guest's memory holds.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "block/base/error.h"
#include "block/base/log.h"
#include "block/drivers/null/null.h"
#include "block/export/vhost_user/session.h"
#include "block/graph/open.h"
#include "block/io/backend.h"
#include "tests/support/vring.h"

using namespace strata;

// In the place of block/base/log.cc: what a session has to say of each input is nobody's news.
void strata::set_program_name(std::string_view) {}
std::string_view strata::program_name() noexcept {
  return "fuzz";
}
void strata::write_log_line(std::string_view) noexcept {}

namespace {

constexpr size_t kMostMessages = 64;
constexpr size_t kMemoryBytes = 256 << 10;

// What is the same for all inputs.
class World {
 public:
  World() {
    qapi::BlockdevOptions options;
    options.select(qapi::BlockdevDriver::null_co);
    options.get_if<qapi::BlockdevOptionsNull>()->size = 1 << 20;
    NodePtr node = context_.run_to_completion(open_node(loop_, layer_, std::move(options)));
    PermissionSet needed{Permission::consistent_read, Permission::write};
    user_.attach(loop_, std::move(node), {needed, kAllPermissions});
    traits_.export_id = "fuzz";
    traits_.device.writable = true;
    traits_.device.serial = "fuzz";
    traits_.contexts = {&context_, &context_};
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
    std::array<int, 2> pair;
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair.data()) != 0)
      std::abort();
    {
      UniqueFd front_end(pair[0]);
      vhost_user::Session session(loop_, UniqueFd(pair[1]), user_, traits_);
      std::memset(guest_.data(), 0, guest_.size());
      send_all(front_end.get(), data, size);
      ::shutdown(front_end.get(), SHUT_WR);
      context_.run_to_completion(session.run());
    }
    if (user_.request_gate()->inside() != 0) std::abort();
  }

 private:
  void send_all(int socket, const uint8_t* data, size_t size) {
    for (size_t sent = 0; sent < kMostMessages && size >= 4; ++sent) {
      const uint8_t* head = data;
      data += 4;
      size -= 4;
      if (head[0] == 0) {
        std::memcpy(guest_.data(), data, std::min(size, guest_.size()));
        return;
      }
      size_t payload = std::min<size_t>(head[2], size);
      if (!send(socket, head, data, payload)) return;
      data += payload;
      size -= payload;
    }
  }

  bool send(int socket, const uint8_t* head, const uint8_t* payload, size_t bytes) {
    bool whole = (head[1] & 0x40) == 0;
    std::array<uint32_t, 3> words{head[0], (head[1] & 0x80) != 0 ? head[1] : 1u | (head[1] & 8u),
                                  static_cast<uint32_t>(bytes + (whole ? 0 : head[3]))};
    std::array<iovec, 2> parts{iovec{words.data(), sizeof words},
                               iovec{const_cast<uint8_t*>(payload), bytes}};
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

  AioContext context_{"main"};
  MainLoop loop_{context_};
  const DriverDescriptor* drivers_[1]{&kNullCoDriver};
  BlockLayer layer_{loop_, drivers_, [](std::string_view, boost::json::object) {}};
  Backend user_{layer_};
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
