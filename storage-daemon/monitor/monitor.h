// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <memory>
#include <string>

#include "block/aio/main_loop.h"
#include "block/coro/scope.h"
#include "block/coro/task.h"
#include "qapi/types_control.h"

namespace strata {

class Chardev;
class Daemon;
class QmpSession;

// A QMP monitor on a character device: serves its clients one after the other.
class Monitor {
 public:
  // Takes the device for itself; throws Error if it does not exist or is taken.
  Monitor(Daemon& daemon, MainLoop& loop, const qapi::MonitorOptions& options);
  ~Monitor();

  const std::string& id() const noexcept { return id_; }

  // Ends the session, if there is one, with what is still to be said, and takes no other.
  Task<void> stop();

 private:
  Task<void> serve();

  Daemon& daemon_;
  MainLoop& loop_;
  std::string id_;
  bool pretty_;
  Chardev& chardev_;
  QmpSession* session_ = nullptr;
  bool stopping_ = false;
  TaskScope scope_;
};

}  // namespace strata
