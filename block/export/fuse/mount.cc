// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/fuse/mount.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fuse.h>
#include <poll.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "block/base/error.h"
#include "block/base/log.h"
#include "block/export/fuse/descriptor_message.h"
#include "block/export/fuse/protocol.h"

// NOLINTNEXTLINE: POSIX names it so.
extern char** environ;

namespace strata::fuse_export {
namespace {

using qapi::FuseExportAllowOther;

constexpr const char* kDevice = "/dev/fuse";
constexpr const char* kHelper = "fusermount3";
constexpr const char* kFailed = "Failed to mount FUSE session to export";

std::string mount_options(bool allow_other) {
  return fmt::format("default_permissions,max_read={}{}", kMostData,
                     allow_other ? ",allow_other" : "");
}

// Runs the helper with `arguments` and, as a further descriptor, `socket` (-1: none). Its exit
// status, or -1 with errno.
int run_helper(std::vector<std::string> arguments, int socket) {
  std::vector<char*> argv{const_cast<char*>(kHelper)};
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::string communication = fmt::format("_FUSE_COMMFD={}", socket);
  std::vector<char*> environment;
  for (char** variable = environ; *variable != nullptr; ++variable)
    environment.push_back(*variable);
  environment.push_back(communication.data());
  environment.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  if (socket >= 0) posix_spawn_file_actions_adddup2(&actions, socket, socket);
  sigset_t signals;
  sigemptyset(&signals);
  posix_spawnattr_setsigmask(&attributes, &signals);
  sigaddset(&signals, SIGPIPE);
  posix_spawnattr_setsigdefault(&attributes, &signals);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  pid_t child = 0;
  int error = ::posix_spawnp(&child, kHelper, &actions, &attributes, argv.data(),
                             socket >= 0 ? environment.data() : environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) return errno = error, -1;
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return -1;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// The descriptor that the helper sent; empty if it sent none.
UniqueFd receive_descriptor(int socket) noexcept {
  char byte = 0;
  UniqueFd fd;
  receive_with_descriptor(socket, &byte, sizeof byte, fd);
  return fd;
}

// What went wrong the helper has said on standard error.
UniqueFd mount_with_helper(const std::string& path, bool allow_other) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
    throw Error::from_errno(errno, "{}", kFailed);
  UniqueFd ours(pair[0]);
  UniqueFd theirs(pair[1]);
  int status =
      run_helper({"-o", "rw,nosuid,nodev," + mount_options(allow_other), "--", path}, theirs.get());
  if (status < 0) throw Error::from_errno(errno, "{}: could not run {}", kFailed, kHelper);
  theirs.reset();
  UniqueFd device = status == 0 ? receive_descriptor(ours.get()) : UniqueFd();
  if (!device) throw Error("{}", kFailed);
  int flags = ::fcntl(device.get(), F_GETFL);
  if (flags < 0 || ::fcntl(device.get(), F_SETFL, flags | O_NONBLOCK) < 0)
    throw Error::from_errno(errno, "{}", kFailed);
  return device;
}

UniqueFd open_device() {
  UniqueFd device(::open(kDevice, O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!device) throw Error::from_errno(errno, "{}: could not open {}", kFailed, kDevice);
  return device;
}

UniqueFd mount_once(const std::string& path, bool allow_other) {
  UniqueFd device = open_device();
  std::string options = fmt::format("fd={},rootmode={:o},user_id={},group_id={},{}", device.get(),
                                    static_cast<unsigned>(S_IFREG), ::getuid(), ::getgid(),
                                    mount_options(allow_other));
  if (::mount(kDevice, path.c_str(), "fuse", MS_NOSUID | MS_NODEV, options.c_str()) == 0)
    return device;
  if (errno != EPERM) throw Error::from_errno(errno, "{}", kFailed);
  device.reset();
  return mount_with_helper(path, allow_other);
}

// Of what is mounted at `path`, asking the kernel only and not whoever serves it; 0: unknown.
uint64_t id_of_mount(const std::string& path) noexcept {
  struct statx info{};
  int flags = AT_STATX_DONT_SYNC | AT_SYMLINK_NOFOLLOW;
  if (::statx(AT_FDCWD, path.c_str(), flags, STATX_MNT_ID, &info) < 0) return 0;
  return (info.stx_mask & STATX_MNT_ID) != 0 ? info.stx_mnt_id : 0;
}

Mount mount_with(const std::string& path, bool allow_other) {
  UniqueFd device = mount_once(path, allow_other);
  return {std::move(device), path, allow_other, id_of_mount(path)};
}

// The file system is gone already: its user unmounted it.
bool is_disconnected(const UniqueFd& device) noexcept {
  pollfd poll{device.get(), 0, 0};
  return ::poll(&poll, 1, 0) > 0 && (poll.revents & POLLERR) != 0;
}

class DirectMounter final : public Mounter {
 public:
  Mount mount_over(const std::string& path, FuseExportAllowOther allow_other) override {
    if (allow_other == FuseExportAllowOther::auto_) {
      try {
        return mount_with(path, true);
      } catch (const Error&) {
        // Without it, perhaps.
      }
    }
    return mount_with(path, allow_other == FuseExportAllowOther::on);
  }

  void unmount(const Mount& mount) noexcept override {
    if (mount.device && is_disconnected(mount.device)) return;
    if (id_of_mount(mount.path) != mount.id) return;
    if (::umount2(mount.path.c_str(), MNT_DETACH) == 0) return;
    int error = errno;
    if (error == EPERM) {
      int status = run_helper({"-u", "-q", "-z", "--", mount.path}, -1);
      if (status == 0) return;
      if (status < 0) error = errno;
    }
    log_error("Failed to unmount '{}': {}", mount.path, Error::describe_errno(error));
  }
};

}  // namespace

std::string find_mountpoint(const std::string& mountpoint) {
  struct stat info{};
  if (::stat(mountpoint.c_str(), &info) < 0) {
    int error = errno;
    Error failure = Error::from_errno(error, "Failed to stat '{}'", mountpoint);
    if (error == ENOTCONN)
      throw std::move(failure).hint(
          fmt::format("The process that exported there is gone. Unmount it first: "
                      "fusermount3 -u '{}'\n",
                      mountpoint));
    throw failure;
  }
  if (!S_ISREG(info.st_mode)) throw Error("'{}' is not a regular file", mountpoint);
  std::unique_ptr<char, decltype(&std::free)> path(::realpath(mountpoint.c_str(), nullptr),
                                                   &std::free);
  if (!path) throw Error::from_errno(errno, "Failed to resolve '{}'", mountpoint);
  return path.get();
}

std::shared_ptr<Mounter> make_mounter() {
  return std::make_shared<DirectMounter>();
}

UniqueFd clone_device(const UniqueFd& device) {
  UniqueFd clone(::open(kDevice, O_RDWR | O_CLOEXEC | O_NONBLOCK));
  uint32_t original = static_cast<uint32_t>(device.get());
  if (clone && ::ioctl(clone.get(), FUSE_DEV_IOC_CLONE, &original) == 0) return clone;
  clone.reset(::fcntl(device.get(), F_DUPFD_CLOEXEC, 0));
  if (!clone) throw Error::from_errno(errno, "Failed to duplicate the FUSE device");
  return clone;
}

}  // namespace strata::fuse_export
