// SPDX-License-Identifier: GPL-2.0-or-later
//
// An export as a block device of the kernel's, /dev/nbdN.
#pragma once

#include <string>

#include "block/base/unique_fd.h"
#include "block/drivers/nbd/handshake.h"

namespace strata::tools {

class KernelDevice {
 public:
  // Throws Error.
  explicit KernelDevice(std::string path);

  // Hands the client's end of a connection over, which is past its handshake. Throws Error.
  void connect(int socket, const nbd_client::ExportInfo& info);
  // Blocks until the device is disconnected, or the connection is lost. Looks for partitions once
  // it works.
  void run() noexcept;
  // Whether the kernel has begun to: only then the device has its size.
  bool is_running() const noexcept;
  void find_partitions() const noexcept;

  // For --disconnect. Throws Error.
  static void disconnect(const std::string& path);

 private:
  std::string path_;
  bool is_empty_ = false;
  UniqueFd fd_;
};

}  // namespace strata::tools
