// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/fuse/mount_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <list>
#include <mutex>
#include <system_error>

#include "block/base/error.h"
#include "block/export/fuse/descriptor_message.h"

namespace strata::fuse_export {
namespace {

namespace fs = std::filesystem;
using qapi::FuseExportAllowOther;

// ---- Messages between the two, one a packet

struct Order {
  bool mounts = false;  // else: unmount what has this number
  FuseExportAllowOther allow_other{};
  uint64_t id = 0;
  std::array<char, PATH_MAX> path{};
};

struct Answer {
  bool allow_other = false;
  uint64_t id = 0;
  std::array<char, 1024> error{};  // empty: done
};

template <size_t size>
void set_text(std::array<char, size>& field, std::string_view text) noexcept {
  size_t bytes = std::min(text.size(), size - 1);
  std::memcpy(field.data(), text.data(), bytes);
  field[bytes] = 0;
}

template <size_t size>
std::string text_of(const std::array<char, size>& field) {
  return {field.data(), ::strnlen(field.data(), size)};
}

// With the descriptor, unless it is -1.
template <class T>
bool send_packet(int socket, const T& packet, int fd) noexcept {
  iovec data{const_cast<T*>(&packet), sizeof packet};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof fd)> control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  ssize_t sent = 0;
  do {
    sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent == sizeof packet;
}

// False where the other one is gone.
template <class T>
bool receive_packet(int socket, T& packet, UniqueFd& fd) noexcept {
  return receive_with_descriptor(socket, &packet, sizeof packet, fd) == sizeof packet;
}

// ---- The process that mounts

class Server {
 public:
  Server(UniqueFd socket, std::vector<std::string> directories)
      : socket_(std::move(socket)), directories_(std::move(directories)) {}

  void run() {
    Order order;
    UniqueFd none;
    while (receive_packet(socket_.get(), order, none)) {
      none.reset();
      Answer answer;
      UniqueFd device;
      try {
        if (order.mounts)
          device = mount(order, answer);
        else
          unmount(order.id);
      } catch (const std::exception& error) {
        set_text(answer.error, error.what());
      }
      if (!send_packet(socket_.get(), answer, device.get())) break;
    }
    for (const Mount& mount : mounts_) mounter_->unmount(mount);
  }

 private:
  UniqueFd mount(const Order& order, Answer& answer) {
    std::string path = text_of(order.path);
    if (!is_allowed(path)) throw Error("The sandbox does not allow to mount over '{}'", path);
    Mount made = mounter_->mount_over(path, order.allow_other);
    answer.allow_other = made.allow_other;
    answer.id = made.id;
    UniqueFd device = std::move(made.device);
    mounts_.push_back(std::move(made));
    return device;
  }

  // The file may be a dead mount, or one that nobody serves, so it is not looked at.
  void unmount(uint64_t id) noexcept {
    auto found = std::ranges::find(mounts_, id, &Mount::id);
    if (found == mounts_.end()) return;
    mounter_->unmount(*found);
    mounts_.erase(found);
  }

  bool is_allowed(const std::string& path) const {
    std::error_code unknown;
    if (fs::canonical(path, unknown) != path || !fs::is_regular_file(path, unknown)) return false;
    return std::ranges::any_of(directories_, [&](const std::string& directory) {
      return path.starts_with(directory == "/" ? directory : directory + "/");
    });
  }

  UniqueFd socket_;
  std::vector<std::string> directories_;  // without links
  std::shared_ptr<Mounter> mounter_ = make_mounter();
  std::list<Mount> mounts_;  // without their devices, which would stay open
};

// Nothing of what this process has open is the other one's business, but standard error.
[[noreturn]] void serve(UniqueFd socket, std::vector<std::string> directories) {
  // A service manager ends all processes of a service: this one goes when the other one is gone.
  for (int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) ::signal(number, SIG_IGN);
  ::prctl(PR_SET_NAME, "strata-mount");
  constexpr int kSocket = STDERR_FILENO + 1;
  if (socket.get() != kSocket) {
    ::dup3(socket.get(), kSocket, O_CLOEXEC);
    socket.reset(kSocket);
  }
  ::close_range(kSocket + 1, ~0U, 0);
  UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  for (int fd : {STDIN_FILENO, STDOUT_FILENO}) ::dup2(null.get(), fd);
  try {
    Server(std::move(socket), std::move(directories)).run();
  } catch (...) {
    ::_exit(EXIT_FAILURE);
  }
  ::_exit(EXIT_SUCCESS);
}

// ---- And the one that asks it

class Client final : public Mounter {
 public:
  explicit Client(UniqueFd socket) : socket_(std::move(socket)) {}

  Mount mount_over(const std::string& path, FuseExportAllowOther allow_other) override {
    Order order{.mounts = true, .allow_other = allow_other};
    set_text(order.path, path);
    Answer answer;
    UniqueFd device = ask(order, answer);
    if (!device) throw Error("The process that mounts has sent no device");
    return {std::move(device), path, answer.allow_other, answer.id};
  }

  void unmount(const Mount& mount) noexcept override {
    try {
      Answer answer;
      ask({.id = mount.id}, answer);
    } catch (const Error&) {
      // It is gone, and has unmounted everything.
    }
  }

 private:
  UniqueFd ask(const Order& order, Answer& answer) {
    std::lock_guard lock(mutex_);
    UniqueFd device;
    if (!send_packet(socket_.get(), order, -1) || !receive_packet(socket_.get(), answer, device))
      throw Error("The process that mounts is gone");
    if (std::string error = text_of(answer.error); !error.empty()) throw Error("{}", error);
    return device;
  }

  std::mutex mutex_;  // any thread of the pool may ask
  UniqueFd socket_;
};

}  // namespace

std::shared_ptr<Mounter> start_mount_process(std::vector<std::string> directories) {
  for (std::string& directory : directories) {
    std::error_code unknown;
    fs::path real = fs::canonical(directory, unknown);
    if (!unknown) directory = real.string();
  }
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    throw Error::from_errno(errno, "Cannot start the process that mounts");
  UniqueFd ours(pair[0]);
  UniqueFd theirs(pair[1]);
  pid_t child = ::fork();
  if (child < 0) throw Error::from_errno(errno, "Cannot start the process that mounts");
  if (child == 0) {
    ours.reset();
    serve(std::move(theirs), std::move(directories));
  }
  return std::make_shared<Client>(std::move(ours));
}

}  // namespace strata::fuse_export
