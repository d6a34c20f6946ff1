// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/chardev/pty.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "block/aio/socket_stream.h"
#include "block/base/error.h"

namespace strata {
namespace {

// The kernel does not tell when the device file is opened.
constexpr auto kPeerInterval = std::chrono::milliseconds(200);

UniqueFd open_master(std::string& device) {
  UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
  char name[128];
  if (!master || ::grantpt(master.get()) != 0 || ::unlockpt(master.get()) != 0 ||
      ::ptsname_r(master.get(), name, sizeof name) != 0)
    throw Error::from_errno(errno, "Failed to open PTY");
  device = name;
  UniqueFd slave(::open(name, O_RDWR | O_NOCTTY | O_CLOEXEC));
  termios mode{};
  if (slave && ::tcgetattr(slave.get(), &mode) == 0) {
    ::cfmakeraw(&mode);
    ::tcsetattr(slave.get(), TCSAFLUSH, &mode);
  }
  return master;
}

}  // namespace

PtyChardev::PtyChardev(MainLoop& loop, std::string id, const qapi::ChardevPty& options)
    : Chardev(std::move(id)), context_(loop.context()), master_(open_master(device_)) {
  if (options.path) {
    if (::symlink(device_.c_str(), options.path->c_str()) != 0)
      throw Error::from_errno(errno, "Failed to create PTY symlink '{}'", *options.path);
    link_ = *options.path;
  }
  scope_.spawn(watch());
}

PtyChardev::~PtyChardev() {
  if (!link_.empty()) ::unlink(link_.c_str());
}

bool PtyChardev::has_peer() const noexcept {
  pollfd entry{.fd = master_.get(), .events = POLLOUT, .revents = 0};
  return ::poll(&entry, 1, 0) >= 0 && (entry.revents & POLLHUP) == 0;
}

Task<void> PtyChardev::watch() {
  do {
    if (is_connected() || !has_peer()) continue;
    UniqueFd fd(::fcntl(master_.get(), F_DUPFD_CLOEXEC, 3));
    if (fd) set_stream(std::make_shared<SocketStream>(context_, std::move(fd)));
  } while (co_await context_.sleep_for(kPeerInterval, closing()));
}

Task<void> PtyChardev::on_close() {
  return scope_.join();
}

}  // namespace strata
