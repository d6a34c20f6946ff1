// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/program/systemd.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>

#include "block/base/unique_fd.h"

namespace strata {
namespace {

constexpr int kFirstActivatedFd = 3;

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

}  // namespace

long environment_number(const char* name) noexcept {
  std::string_view text = environment(name);
  long value = -1;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? value : -1;
}

void notify_service_manager(std::string_view state, int passed) noexcept {
  std::string_view path = environment("NOTIFY_SOCKET");
  sockaddr_un address{.sun_family = AF_UNIX};
  if (path.size() < 2 || path.size() > sizeof address.sun_path) return;
  if (path[0] != '/' && path[0] != '@') return;
  std::memcpy(address.sun_path, path.data(), path.size());
  if (path[0] == '@') address.sun_path[0] = '\0';
  UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd) return;
  auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  iovec text{const_cast<char*>(state.data()), state.size()};
  msghdr message{};
  message.msg_name = &address;
  message.msg_namelen = size;
  message.msg_iov = &text;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof passed)] = {};
  if (passed >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof passed);
    std::memcpy(CMSG_DATA(rights), &passed, sizeof passed);
  }
  std::ignore = ::sendmsg(fd.get(), &message, MSG_NOSIGNAL);
}

void name_activated_sockets(PassedFds& passed) {
  long count = environment_number("LISTEN_FDS");
  if (environment_number("LISTEN_PID") != ::getpid() || count <= 0 || count > 1024) return;
  std::string_view names = environment("LISTEN_FDNAMES");
  for (int fd = kFirstActivatedFd; fd < kFirstActivatedFd + count && !names.empty(); ++fd) {
    size_t end = std::min(names.find(':'), names.size());
    if (end != 0) passed.add_name(std::string(names.substr(0, end)), fd);
    names.remove_prefix(std::min(end + 1, names.size()));
  }
}

}  // namespace strata
