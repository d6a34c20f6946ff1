// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/program/pid_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "block/base/error.h"

namespace strata {
namespace {

bool is_still_at(int fd, const std::string& path) {
  struct stat here{};
  struct stat there{};
  return ::fstat(fd, &here) == 0 && ::stat(path.c_str(), &there) == 0 &&
         here.st_dev == there.st_dev && here.st_ino == there.st_ino;
}

// A lock of the process and not of the descriptor: other programs test for that kind.
void lock(int fd) {
  struct flock whole{.l_type = F_WRLCK, .l_whence = SEEK_SET};
  if (::fcntl(fd, F_SETLK, &whole) != 0) throw Error::from_errno(errno, "Cannot lock pid file");
}

void write_pid(int fd) {
  std::string text = fmt::format("{}\n", ::getpid());
  if (::ftruncate(fd, 0) != 0) throw Error::from_errno(errno, "Failed to truncate pid file");
  if (::pwrite(fd, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
    throw Error::from_errno(errno, "Failed to write pid file");
}

}  // namespace

PidFile::PidFile(const std::string& path) {
  try {
    std::error_code unknown;  // opening the file says what is wrong
    path_ = std::filesystem::absolute(path, unknown);
    // Whoever ended in between has removed the file that was opened here.
    do {
      fd_ = UniqueFd(::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, S_IRUSR | S_IWUSR));
      if (!fd_) throw Error::from_errno(errno, "Could not create '{}'", path);
      lock(fd_.get());
    } while (!is_still_at(fd_.get(), path_));
    write_pid(fd_.get());
  } catch (const Error&) {
    path_.clear();
    throw;
  }
}

PidFile::~PidFile() {
  if (fd_ && !path_.empty()) ::unlink(path_.c_str());
}

}  // namespace strata
