// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/vduse/kernel.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <cerrno>

namespace strata::vduse {
namespace {

class RealKernel final : public Kernel {
 public:
  Result<UniqueFd> open(const std::string& path) noexcept override {
    int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return Result<UniqueFd>::error(errno);
    return UniqueFd(fd);
  }
  Result<int> control(int fd, unsigned long request, void* argument) noexcept override {
    int result = ::ioctl(fd, request, argument);
    if (result < 0) return Result<int>::error(errno);
    return result;
  }
};

}  // namespace

Kernel& Kernel::real() noexcept {
  static RealKernel kernel;
  return kernel;
}

}  // namespace strata::vduse
