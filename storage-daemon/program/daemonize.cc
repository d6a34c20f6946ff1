// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/program/daemonize.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "block/base/error.h"

namespace strata {
namespace {

// What the child tells through the pipe; closing it without a word is failure.
constexpr char kReady = 1;

[[noreturn]] void wait_for_child(int fd) {
  char word = 0;
  ssize_t got;
  do {
    got = ::read(fd, &word, 1);
  } while (got < 0 && errno == EINTR);
  ::_exit(got == 1 && word == kReady ? EXIT_SUCCESS : EXIT_FAILURE);
}

}  // namespace

void Daemonizer::begin() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw Error::from_errno(errno, "Failed to daemonize");
  UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  pid_t pid = ::fork();
  if (pid < 0) throw Error::from_errno(errno, "Failed to daemonize");
  if (pid > 0) {
    write_end.reset();
    wait_for_child(read_end.get());
  }
  ::setsid();
  // A second child can never get a terminal again.
  pid = ::fork();
  if (pid < 0) throw Error::from_errno(errno, "Failed to daemonize");
  if (pid > 0) ::_exit(EXIT_SUCCESS);
  ::umask(027);
  pipe_ = std::move(write_end);
}

void Daemonizer::ready(bool keep_stderr) {
  if (!pipe_) return;
  if (::chdir("/") != 0) throw Error::from_errno(errno, "not able to chdir to /");
  UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null) throw Error::from_errno(errno, "Failed to open /dev/null");
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (fd != STDERR_FILENO || !keep_stderr) ::dup2(null.get(), fd);
  std::ignore = ::write(pipe_.get(), &kReady, 1);
  pipe_.reset();
}

}  // namespace strata
