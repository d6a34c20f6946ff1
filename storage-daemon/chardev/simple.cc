// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/chardev/simple.h"

#include <fcntl.h>
#include <unistd.h>

#include "block/aio/socket_stream.h"
#include "block/base/error.h"
#include "storage-daemon/chardev/streams.h"

namespace strata {
namespace {

UniqueFd open_file(const std::string& path, int flags) {
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, 0666));
  if (!fd) throw Error::from_errno(errno, "Could not open '{}'", path);
  return fd;
}

UniqueFd duplicate(int fd) {
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!copy) throw Error::from_errno(errno, "Cannot use the standard streams");
  return copy;
}

std::unique_ptr<Stream> make_input(MainLoop& loop, UniqueFd fd) {
  if (!fd) return std::make_unique<NullStream>();
  return std::make_unique<SocketStream>(loop.context(), std::move(fd));
}

void set_raw(const termios& before, bool signals) {
  termios raw = before;
  raw.c_iflag &=
      ~static_cast<tcflag_t>(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
  raw.c_oflag |= OPOST;
  raw.c_lflag &= ~static_cast<tcflag_t>(ECHO | ECHONL | ICANON | IEXTEN);
  if (!signals) raw.c_lflag &= ~static_cast<tcflag_t>(ISIG);
  raw.c_cflag &= ~static_cast<tcflag_t>(CSIZE | PARENB);
  raw.c_cflag |= CS8;
  raw.c_cc[VMIN] = 1;
  raw.c_cc[VTIME] = 0;
  ::tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

}  // namespace

NullChardev::NullChardev(std::string id) : Chardev(std::move(id)) {
  set_stream(std::make_shared<NullStream>());
}

FileChardev::FileChardev(MainLoop& loop, std::string id, const qapi::ChardevFile& options)
    : Chardev(std::move(id)) {
  int how = options.append.value_or(false) ? O_APPEND : O_TRUNC;
  UniqueFd in;
  UniqueFd out = open_file(options.out, O_WRONLY | O_CREAT | how);
  if (options.in) in = open_file(*options.in, O_RDONLY | O_NONBLOCK);
  set_stream(
      std::make_shared<PairStream>(make_input(loop, std::move(in)),
                                   std::make_unique<SocketStream>(loop.context(), std::move(out))));
}

StdioChardev::StdioChardev(MainLoop& loop, std::string id, const qapi::ChardevStdio& options)
    : Chardev(std::move(id)) {
  restore_.input_flags = ::fcntl(STDIN_FILENO, F_GETFL);
  restore_.output_flags = ::fcntl(STDOUT_FILENO, F_GETFL);
  UniqueFd in = duplicate(STDIN_FILENO);
  UniqueFd out = duplicate(STDOUT_FILENO);
  termios terminal{};
  if (::tcgetattr(STDIN_FILENO, &terminal) == 0) {
    restore_.terminal = terminal;
    set_raw(terminal, options.signal.value_or(true));
  }
  set_stream(
      std::make_shared<PairStream>(make_input(loop, std::move(in)),
                                   std::make_unique<SocketStream>(loop.context(), std::move(out))));
}

StdioChardev::~StdioChardev() {
  if (restore_.terminal) ::tcsetattr(STDIN_FILENO, TCSANOW, &*restore_.terminal);
  if (restore_.input_flags >= 0) ::fcntl(STDIN_FILENO, F_SETFL, restore_.input_flags);
  if (restore_.output_flags >= 0) ::fcntl(STDOUT_FILENO, F_SETFL, restore_.output_flags);
}

}  // namespace strata
