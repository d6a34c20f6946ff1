// SPDX-License-Identifier: GPL-2.0-or-later
//
// Mounting over a file, and taking that back. Everything here blocks, some of it until requests of
// the very mount have been served: call it in a thread that serves none.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "block/base/unique_fd.h"
#include "qapi/types_block_export.h"

namespace strata::fuse_export {

struct Mount {
  UniqueFd device;  // non-blocking
  std::string path;
  bool allow_other = false;  // whether other users may use it
  uint64_t id = 0;           // the kernel's, by which it is known again; 0: unknown
};

// The absolute path of what `mountpoint` names, which is a regular file. Throws Error.
std::string find_mountpoint(const std::string& mountpoint);

// Who mounts: this process, or one that may.
class Mounter {
 public:
  Mounter() = default;
  virtual ~Mounter() = default;
  Mounter(const Mounter&) = delete;
  Mounter& operator=(const Mounter&) = delete;

  // `path` is absolute. Throws Error.
  virtual Mount mount_over(const std::string& path, qapi::FuseExportAllowOther allow_other) = 0;
  // Whoever has the file open keeps it until the device is closed. Leaves alone what somebody else
  // has mounted there. Says on standard error what went wrong.
  virtual void unmount(const Mount& mount) noexcept = 0;
};

// Mounts by itself, or by fusermount3 where that is not permitted.
std::shared_ptr<Mounter> make_mounter();

// A further device for the same mount, for another thread: requests that it reads it answers. Where
// the kernel gives none, another descriptor of the same. Throws Error.
UniqueFd clone_device(const UniqueFd& device);

}  // namespace strata::fuse_export
