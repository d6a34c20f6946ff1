// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/file/image_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <cerrno>
#include <charconv>
#include <climits>
#include <optional>
#include <string_view>

#include "block/aio/passed_fds.h"
#include "block/base/error.h"

namespace strata {
namespace {

// Names of descriptors.
constexpr std::string_view kFdPrefix = "fd:";
constexpr std::string_view kSetPrefix = "/dev/fdset/";

int flags_of(OpenMode mode) noexcept {
  return (mode.writable ? O_RDWR : O_RDONLY) | (mode.direct ? O_DIRECT : 0) | O_CLOEXEC;
}

int open_file(const char* name, int flags) noexcept {
  int fd = -1;
  do {
    fd = ::open(name, flags);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

Error open_error(int error, const std::string& name, OpenMode mode) {
  Error result = Error::from_errno(error, "Could not open '{}'", name);
  if (error == EINVAL && mode.direct)
    return Error::from_text(
        result.text() + " (the file system may not support O_DIRECT: try cache.direct=off)", error);
  return result;
}

void check_kind(const struct stat& info, const std::string& name, FileKind kind,
                std::string_view driver) {
  if (kind == FileKind::regular && !S_ISREG(info.st_mode))
    throw Error("'{}' driver requires '{}' to be a regular file", driver, name);
  if (kind == FileKind::device && !S_ISBLK(info.st_mode) && !S_ISCHR(info.st_mode))
    throw Error("'{}' driver requires '{}' to be either a character or block device", driver, name);
}

// A device may be write-protected and open for writing nevertheless.
void check_device_writable(int fd) {
  struct stat info{};
  if (::fstat(fd, &info) != 0) throw Error::from_errno(errno, "Could not stat file");
  int read_only = 0;
  if (S_ISBLK(info.st_mode) && ::ioctl(fd, BLKROGET, &read_only) == 0 && read_only != 0)
    throw Error::from_errno(EACCES, "The device is not writable");
}

// The number behind the prefix; nothing where that is not one.
template <class Number>
std::optional<Number> number_after(std::string_view prefix, std::string_view name) noexcept {
  name.remove_prefix(prefix.size());
  Number number = 0;
  auto [end, bad] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (bad != std::errc() || end != name.data() + name.size() || number < 0) return std::nullopt;
  return number;
}

// Every descriptor of our own is closed on exec, so one that is not was handed down.
bool is_inherited(int fd) noexcept {
  int flags = ::fcntl(fd, F_GETFD);
  return flags >= 0 && (flags & FD_CLOEXEC) == 0;
}

// The file behind an inherited descriptor, opened anew in `mode`; or, where its name may not be
// opened, the descriptor itself, if it is open in that mode.
UniqueFd open_inherited(int fd, const std::string& name, OpenMode mode) {
  try {
    return reopen_image_file(fd, name, mode, nullptr);
  } catch (const Error& error) {
    int flags = ::fcntl(fd, F_GETFL);
    bool can_write = (flags & O_ACCMODE) == O_RDWR;
    bool is_direct = (flags & O_DIRECT) != 0;
    if (error.error_number() != EACCES || (mode.writable && !can_write) || mode.direct != is_direct)
      throw;
    return UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  }
}

UniqueFd open_descriptor(const std::string& name, OpenMode mode) {
  std::optional<int> fd = number_after<int>(kFdPrefix, name);
  if (!fd) throw Error("Could not open '{}': a descriptor is named by its number", name);
  if (!is_inherited(*fd)) throw Error::from_errno(EBADF, "Could not open '{}'", name);
  return open_inherited(*fd, name, mode);
}

UniqueFd open_of_set(const std::string& name, OpenMode mode, const PassedFds* passed) {
  std::optional<int64_t> set = number_after<int64_t>(kSetPrefix, name);
  if (!set) throw Error("Could not parse fdset {}", name);
  if (passed != nullptr && passed->sets().all().contains(*set)) {
    UniqueFd fd = passed->sets().duplicate(*set, flags_of(mode));
    if (fd) return fd;
  } else if (*set <= INT_MAX && is_inherited(static_cast<int>(*set))) {
    return open_inherited(static_cast<int>(*set), name, mode);
  } else {
    errno = ENOENT;
  }
  throw Error::from_errno(errno, "Could not dup FD for {} flags {:x}", name,
                          flags_of(mode) & ~O_CLOEXEC);
}

UniqueFd open_named(const std::string& name, OpenMode mode, const PassedFds* passed) {
  if (name.starts_with(kSetPrefix)) return open_of_set(name, mode, passed);
  if (name.starts_with(kFdPrefix)) return open_descriptor(name, mode);
  return UniqueFd(open_file(name.c_str(), flags_of(mode)));
}

}  // namespace

UniqueFd open_image_file(const std::string& name, FileKind kind, std::string_view driver,
                         OpenMode mode, const PassedFds* passed) {
  struct stat info{};
  // To open a FIFO may take for ever.
  if (::stat(name.c_str(), &info) == 0 && S_ISFIFO(info.st_mode))
    check_kind(info, name, kind, driver);
  UniqueFd fd = open_named(name, mode, passed);
  if (!fd) throw open_error(errno, name, mode);
  if (::fstat(fd.get(), &info) != 0) throw Error::from_errno(errno, "Could not stat file");
  check_kind(info, name, kind, driver);
  if (mode.writable) check_device_writable(fd.get());
  return fd;
}

UniqueFd reopen_image_file(int fd, const std::string& name, OpenMode mode,
                           const PassedFds* passed) {
  if (passed != nullptr && name.starts_with(kSetPrefix)) return open_of_set(name, mode, passed);
  std::string same = "/proc/self/fd/" + std::to_string(fd);
  UniqueFd again(open_file(same.c_str(), flags_of(mode)));
  if (!again && errno == ENOENT) {  // no /proc here, or one without this process
    again = UniqueFd(open_file(name.c_str(), flags_of(mode)));
    struct stat before{};
    struct stat now{};
    if (again && (::fstat(fd, &before) != 0 || ::fstat(again.get(), &now) != 0 ||
                  before.st_ino != now.st_ino || before.st_dev != now.st_dev))
      throw Error("Could not open '{}': it is another file now", name);
  }
  if (!again) throw open_error(errno, name, mode);
  if (mode.writable) check_device_writable(again.get());
  return again;
}

}  // namespace strata
