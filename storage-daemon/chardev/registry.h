// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/aio/passed_fds.h"
#include "block/coro/task.h"
#include "qapi/types_char.h"
#include "storage-daemon/chardev/chardev.h"

namespace strata {

// All character devices of a daemon, by id.
class ChardevRegistry {
 public:
  explicit ChardevRegistry(PassedFds& passed) : passed_(passed) {}
  ~ChardevRegistry();

  // Opens a device; a listening socket that is to wait for its first client does. Throws Error.
  Task<Chardev*> add(MainLoop& loop, std::string id, qapi::ChardevBackend backend);
  // Throws Error where change() is not possible, whatever the backend.
  void check_changeable(const std::string& id) const;
  // Puts another backend under a device that nobody uses.
  Task<Chardev*> change(MainLoop& loop, std::string id, qapi::ChardevBackend backend);
  Task<void> remove(MainLoop& loop, std::string id);
  // Whoever waits for a device is told that it ends; then close_all() may follow.
  void begin_close_all(MainLoop& loop);
  Task<void> close_all(MainLoop& loop);

  // Null if there is none.
  Chardev* find(std::string_view id) const;
  // In the order of their making.
  const std::vector<std::unique_ptr<Chardev>>& all() const noexcept { return devices_; }

  // The process has no terminal to speak of: stdio is refused.
  void forbid_stdio() noexcept { stdio_forbidden_ = true; }

  // The types that add() knows.
  static std::vector<qapi::ChardevBackendKind> backends();

 private:
  Task<std::unique_ptr<Chardev>> open(MainLoop& loop, std::string id, qapi::ChardevBackend backend);

  Task<std::unique_ptr<Chardev>> open_backend(MainLoop& loop, std::string id,
                                              qapi::ChardevBackend backend);

  PassedFds& passed_;
  bool stdio_forbidden_ = false;
  std::vector<std::unique_ptr<Chardev>> devices_;
};

}  // namespace strata
