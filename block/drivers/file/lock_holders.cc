// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/file/lock_holders.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <system_error>
#include <vector>

namespace strata {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostNamed = 4;

struct LockRange {
  unsigned long major = 0, minor = 0, inode = 0;
  long first = 0;
  long last = 0;
};

// A line of fdinfo: "lock: 1: OFDLCK  ADVISORY  READ -1 fe:00:403311 100 101".
bool parse_lock(const std::string& line, LockRange& lock) {
  std::istringstream words(line);
  std::string label, number, kind, advisory, mode, pid, file, first, last;
  if (!(words >> label >> number >> kind >> advisory >> mode >> pid >> file >> first >> last))
    return false;
  if (label != "lock:" || kind != "OFDLCK") return false;
  if (std::sscanf(file.c_str(), "%lx:%lx:%lu", &lock.major, &lock.minor, &lock.inode) != 3)
    return false;
  auto number_in = [](const std::string& text, long& value) {
    return std::from_chars(text.data(), text.data() + text.size(), value).ec == std::errc();
  };
  if (!number_in(first, lock.first)) return false;
  if (last == "EOF")
    lock.last = std::numeric_limits<long>::max();
  else if (!number_in(last, lock.last))
    return false;
  return true;
}

bool holds(const fs::path& fdinfo, const struct stat& image, long byte) {
  std::ifstream lines(fdinfo);
  for (std::string line; std::getline(lines, line);) {
    LockRange lock;
    if (!line.starts_with("lock:") || !parse_lock(line, lock)) continue;
    if (lock.inode == image.st_ino && lock.major == major(image.st_dev) &&
        lock.minor == minor(image.st_dev) && lock.first <= byte && byte <= lock.last)
      return true;
  }
  return false;
}

// Only descriptors of the image itself are asked for their locks: reading all fdinfo of a busy host
// takes long.
bool process_holds(const fs::path& process, const struct stat& image, long byte) {
  std::error_code error;
  for (fs::directory_iterator fd(process / "fd", error), end; !error && fd != end;
       fd.increment(error)) {
    struct statx info{};
    // Without asking a file server: other people's files are none of our business.
    if (::statx(AT_FDCWD, fd->path().c_str(), AT_STATX_DONT_SYNC, STATX_INO, &info) != 0) continue;
    if (info.stx_ino != image.st_ino || info.stx_dev_major != major(image.st_dev) ||
        info.stx_dev_minor != minor(image.st_dev))
      continue;
    if (holds(process / "fdinfo" / fd->path().filename(), image, byte)) return true;
  }
  return false;
}

std::string name_of(const fs::path& process) {
  std::ifstream file(process / "comm");
  std::string name;
  std::getline(file, name);
  // A name is whatever its process says.
  std::erase_if(name, [](unsigned char c) { return c < ' ' || c == 0x7f; });
  return name;
}

bool is_number(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(),
                                      [](unsigned char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

std::string describe_lock_holders(int fd, long byte) {
  struct stat image{};
  if (::fstat(fd, &image) != 0) return {};
  std::string own = std::to_string(::getpid());
  std::vector<std::string> holders;
  std::error_code error;
  for (fs::directory_iterator process("/proc", error), end; !error && process != end;
       process.increment(error)) {
    std::string pid = process->path().filename();
    if (!is_number(pid) || holders.size() == kMostNamed) continue;
    if (pid == own) continue;
    if (process_holds(process->path(), image, byte))
      holders.push_back(fmt::format("process {} ({})", pid, name_of(process->path())));
  }
  if (holders.empty()) return {};
  return fmt::format("The lock is held by {}.\n", fmt::join(holders, ", "));
}

}  // namespace strata
