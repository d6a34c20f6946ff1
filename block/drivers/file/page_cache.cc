// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/file/page_cache.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "block/base/error.h"

namespace strata {
namespace {

constexpr uint64_t kWindow = 128 << 20;

class Mapping {
 public:
  Mapping(int fd, uint64_t offset, uint64_t bytes)
      : memory_(::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, static_cast<off_t>(offset))),
        bytes_(bytes) {
    if (memory_ == MAP_FAILED) throw Error::from_errno(errno, "mmap() for mincore() failed");
  }
  ~Mapping() { ::munmap(memory_, bytes_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  void* memory() const noexcept { return memory_; }

 private:
  void* memory_;
  uint64_t bytes_;
};

}  // namespace

void check_page_cache_dropped(int fd) {
  struct stat info{};
  if (::fstat(fd, &info) != 0) throw Error::from_errno(errno, "Could not stat file");
  auto size = static_cast<uint64_t>(info.st_size);
  auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages(kWindow / page);
  for (uint64_t offset = 0; offset < size; offset += kWindow) {
    uint64_t bytes = std::min(kWindow, size - offset);
    Mapping window(fd, offset, bytes);
    if (::mincore(window.memory(), bytes, pages.data()) != 0)
      throw Error::from_errno(errno, "mincore() failed");
    size_t count = static_cast<size_t>((bytes + page - 1) / page);
    if (std::any_of(pages.begin(), pages.begin() + static_cast<ptrdiff_t>(count),
                    [](unsigned char state) { return (state & 1) != 0; }))
      throw Error("page cache still in use!");
  }
}

std::optional<uint64_t> extent_size_hint(int fd) noexcept {
  fsxattr attributes{};
  if (::ioctl(fd, FS_IOC_FSGETXATTR, &attributes) != 0) return std::nullopt;
  if ((attributes.fsx_xflags & FS_XFLAG_EXTSIZE) == 0) return std::nullopt;
  return attributes.fsx_extsize;
}

void set_extent_size_hint(int fd, uint32_t bytes) noexcept {
  fsxattr attributes{};
  if (::ioctl(fd, FS_IOC_FSGETXATTR, &attributes) != 0) return;
  attributes.fsx_xflags |= FS_XFLAG_EXTSIZE;
  attributes.fsx_extsize = bytes;
  ::ioctl(fd, FS_IOC_FSSETXATTR, &attributes);
}

}  // namespace strata
