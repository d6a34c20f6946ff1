// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>

#include "block/base/unique_fd.h"
#include "block/coro/scope.h"
#include "qapi/types_char.h"
#include "storage-daemon/chardev/chardev.h"

namespace strata {

// A pseudo-terminal; whoever opens its device file is the peer.
class PtyChardev final : public Chardev {
 public:
  PtyChardev(MainLoop& loop, std::string id, const qapi::ChardevPty& options);
  ~PtyChardev() override;
  std::string filename() const override { return "pty:" + device_; }
  std::string_view qom_type() const noexcept override { return "chardev-pty"; }
  // The device file, such as /dev/pts/3.
  const std::string& device() const noexcept { return device_; }

 private:
  Task<void> watch();
  bool has_peer() const noexcept;
  Task<void> on_close() override;

  AioContext& context_;
  std::string device_;
  UniqueFd master_;
  std::string link_;  // removed at the end
  TaskScope scope_;
};

}  // namespace strata
