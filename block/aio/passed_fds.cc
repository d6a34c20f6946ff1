// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/passed_fds.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <memory>
#include <optional>

#include "block/base/error.h"

namespace strata {
namespace {

std::optional<int> parse_number(std::string_view text) {
  int value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

bool is_socket(int fd) noexcept {
  int type = 0;
  socklen_t size = sizeof type;
  return ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0;
}

bool is_all_digits(std::string_view text) noexcept {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

}  // namespace

PassedFds PassedFds::inherited() {
  PassedFds passed;
  std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir("/proc/self/fd"), ::closedir);
  if (!directory) throw Error::from_errno(errno, "Cannot list the open file descriptors");
  while (const dirent* entry = ::readdir(directory.get())) {
    std::optional<int> fd = parse_number(entry->d_name);
    if (fd && *fd > STDERR_FILENO && *fd != ::dirfd(directory.get())) passed.available_.insert(*fd);
  }
  return passed;
}

void PassedFds::add_name(std::string name, int fd) {
  names_.insert_or_assign(std::move(name), fd);
}

void PassedFds::add(std::string name, UniqueFd fd) {
  take(name);
  available_.insert(fd.get());
  names_.insert_or_assign(std::move(name), fd.release());
}

int PassedFds::find(const std::string& str) const {
  if (auto named = names_.find(str); named != names_.end()) return named->second;
  if (std::optional<int> number = parse_number(str)) return *number;
  if (is_all_digits(str)) throw Error::from_errno(ERANGE, "Unable to parse FD number {}", str);
  throw Error("Unable to parse FD number {}", str);
}

UniqueFd PassedFds::take_socket(const std::string& str) {
  int fd = find(str);
  if (!available_.contains(fd) || !is_socket(fd))
    throw Error("File descriptor '{}' is not a socket", str);
  return hand_out(fd);
}

UniqueFd PassedFds::take(const std::string& name) noexcept {
  auto named = names_.find(name);
  if (named == names_.end() || !available_.contains(named->second)) return UniqueFd();
  ::fcntl(named->second, F_SETFD, FD_CLOEXEC);
  return hand_out(named->second);
}

// Its number may be another's one day, which its names must not lead to.
UniqueFd PassedFds::hand_out(int fd) noexcept {
  available_.erase(fd);
  std::erase_if(names_, [fd](const auto& entry) { return entry.second == fd; });
  return UniqueFd(fd);
}

}  // namespace strata
