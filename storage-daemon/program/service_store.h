// SPDX-License-Identifier: GPL-2.0-or-later
//
// systemd's file descriptor store (FileDescriptorStoreMax=).
#pragma once

#include <vector>

#include "block/aio/passed_fds.h"
#include "block/export/descriptor_store.h"

namespace strata {

// There is a store where $FDSTORE says that it has room: systemd 254 sets that, and the unit file
// for older ones.
class ServiceStore final : public DescriptorStore {
 public:
  explicit ServiceStore(PassedFds& passed) noexcept;

  DescriptorStore* if_there() noexcept { return is_there_ ? this : nullptr; }

  void keep(const std::string& name, int fd) noexcept override;
  void forget(const std::string& name) noexcept override;
  UniqueFd take(const std::string& name) noexcept override;
  bool expects_successor() const noexcept override { return ending_; }

  // The service manager has asked the process to end; it may be about to start it again.
  void begin_end() noexcept { ending_ = is_there_; }
  // Waits, though not for ever, until the manager has taken what was sent to it.
  void settle() const noexcept;

 private:
  PassedFds& passed_;
  bool is_there_;
  bool ending_ = false;
};

}  // namespace strata
