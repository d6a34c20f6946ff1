// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/nbd/device.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/nbd.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>

#include "block/base/error.h"
#include "block/base/log.h"

namespace strata::tools {
namespace {

constexpr uint64_t kSector = 512;

}  // namespace

KernelDevice::KernelDevice(std::string path) : path_(std::move(path)) {
  fd_.reset(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd_) throw Error("Failed to open {}: {}", path_, Error::describe_errno(errno));
}

void KernelDevice::connect(int socket, const nbd_client::ExportInfo& info) {
  uint64_t block = std::max<uint64_t>(kSector, info.sizes ? info.sizes->minimum : 1);
  uint64_t blocks = info.size / block;
  is_empty_ = blocks == 0;
  if (info.size % block != 0)
    log_error("warning: Export size {} is not a multiple of {}: the rest is out of reach",
              info.size, block);
  if (::ioctl(fd_.get(), NBD_SET_SOCK, socket) < 0)
    throw Error("Failed to set NBD socket")
        .hint("Another image may be connected; or the device is none of the kernel's nbd.\n");
  if (::ioctl(fd_.get(), NBD_SET_BLKSIZE, block) < 0) throw Error("Failed setting NBD block size");
  if (::ioctl(fd_.get(), NBD_SET_SIZE_BLOCKS, blocks) < 0)
    throw Error("Failed setting size (in blocks)");
  // Kernels that know no flags are told the most important one.
  if (::ioctl(fd_.get(), NBD_SET_FLAGS, static_cast<unsigned long>(info.flags)) < 0) {
    int read_only = info.read_only() ? 1 : 0;
    if (errno != ENOTTY) throw Error("Failed setting flags");
    if (::ioctl(fd_.get(), BLKROSET, &read_only) < 0)
      throw Error("Failed setting read-only attribute");
  }
}

void KernelDevice::run() noexcept {
  ::ioctl(fd_.get(), NBD_DO_IT);
  ::ioctl(fd_.get(), NBD_CLEAR_QUE);
  ::ioctl(fd_.get(), NBD_CLEAR_SOCK);
}

bool KernelDevice::is_running() const noexcept {
  uint64_t bytes = 0;
  return is_empty_ || (::ioctl(fd_.get(), BLKGETSIZE64, &bytes) == 0 && bytes != 0);
}

// The kernel does so when a device that has changed is opened.
void KernelDevice::find_partitions() const noexcept {
  UniqueFd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
}

void KernelDevice::disconnect(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) throw Error("Cannot open {}: {}", path, Error::describe_errno(errno));
  ::ioctl(fd.get(), NBD_CLEAR_QUE);
  ::ioctl(fd.get(), NBD_DISCONNECT);
  ::ioctl(fd.get(), NBD_CLEAR_SOCK);
}

}  // namespace strata::tools
