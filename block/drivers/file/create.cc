// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/file/create.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "block/aio/disk_geometry.h"
#include "block/aio/host_disk.h"
#include "block/base/error.h"
#include "block/drivers/file/image_lock.h"
#include "block/drivers/file/resize.h"
#include "qapi/types_block_create.h"

namespace strata {
namespace {

constexpr mode_t kNewFileMode = 0644;
constexpr int64_t kMaxExtentSizeHint = UINT32_MAX;

// Without copy-on-write, btrfs keeps an image in one piece. Other file systems have no such thing,
// and do not mind.
void set_nocow(int fd) noexcept {
  int attributes = 0;
  if (::ioctl(fd, FS_IOC_GETFLAGS, &attributes) != 0) return;
  attributes |= FS_NOCOW_FL;
  ::ioctl(fd, FS_IOC_SETFLAGS, &attributes);
}

// XFS allocates in units of the hint; elsewhere there is no such thing.
void set_extent_size_hint(int fd, uint64_t hint) noexcept {
  fsxattr attributes{};
  if (hint == 0 || ::ioctl(fd, FS_IOC_FSGETXATTR, &attributes) != 0) return;
  attributes.fsx_xflags |= FS_XFLAG_EXTSIZE;
  attributes.fsx_extsize = static_cast<uint32_t>(hint);
  ::ioctl(fd, FS_IOC_FSSETXATTR, &attributes);
}

}  // namespace

Task<void> create_file(MainLoop&, BlockLayer&, const qapi::BlockdevCreateOptions& options) {
  const auto& file = *options.get_if<qapi::BlockdevCreateOptionsFile>();
  if (file.extent_size_hint.value_or(0) > kMaxExtentSizeHint)
    throw Error("Extent size hint is too large");
  UniqueFd fd(::open(file.filename.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, kNewFileMode));
  if (!fd) throw Error::from_errno(errno, "Could not create '{}'", file.filename);

  // The contents are about to go: nobody may be reading or resizing them.
  UniqueFd lock_fd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  if (!lock_fd) throw Error::from_errno(errno, "Could not create '{}'", file.filename);
  ImageLock lock(std::move(lock_fd), file.filename, false);
  lock.prepare(
      {{Permission::write, Permission::resize}, kAllPermissions.without(Permission::resize)});
  lock.commit();

  if (::ftruncate(fd.get(), 0) != 0)
    throw Error::from_errno(errno, "Could not clear file '{}'", file.filename);
  if (file.nocow.value_or(false)) set_nocow(fd.get());
  set_extent_size_hint(fd.get(), file.extent_size_hint.value_or(0));

  DiskGeometry geometry = probe_geometry(fd.get(), false);
  HostDisk disk(std::move(fd), geometry, {});
  TruncateOptions resize;
  resize.preallocation = file.preallocation.value_or(qapi::PreallocMode::off);
  co_await resize_disk(disk, file.size, resize);
}

}  // namespace strata
