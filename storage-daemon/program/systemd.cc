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

long number(std::string_view text) {
  long value = -1;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? value : -1;
}

}  // namespace

void notify_service_manager(std::string_view state) noexcept {
  std::string_view path = environment("NOTIFY_SOCKET");
  sockaddr_un address{.sun_family = AF_UNIX};
  if (path.size() < 2 || path.size() > sizeof address.sun_path) return;
  if (path[0] != '/' && path[0] != '@') return;
  std::memcpy(address.sun_path, path.data(), path.size());
  if (path[0] == '@') address.sun_path[0] = '\0';
  UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd) return;
  auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  std::ignore = ::sendto(fd.get(), state.data(), state.size(), MSG_NOSIGNAL,
                         reinterpret_cast<const sockaddr*>(&address), size);
}

void name_activated_sockets(PassedFds& passed) {
  long count = number(environment("LISTEN_FDS"));
  if (number(environment("LISTEN_PID")) != ::getpid() || count <= 0 || count > 1024) return;
  std::string_view names = environment("LISTEN_FDNAMES");
  for (int fd = kFirstActivatedFd; fd < kFirstActivatedFd + count && !names.empty(); ++fd) {
    size_t end = std::min(names.find(':'), names.size());
    if (end != 0) passed.add_name(std::string(names.substr(0, end)), fd);
    names.remove_prefix(std::min(end + 1, names.size()));
  }
}

}  // namespace strata
