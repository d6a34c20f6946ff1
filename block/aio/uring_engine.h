// SPDX-License-Identifier: GPL-2.0-or-later
//
// The io_uring ring of one AioContext. Private to this room.
#pragma once

#include <liburing.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "block/aio/aio_context.h"
#include "block/aio/host_request.h"

namespace strata {

// How disks take their descriptors back from a ring that has registered them, from any thread.
class UringFiles {
 public:
  explicit UringFiles(AioContext& context) noexcept : context_(&context) {}
  // Before it looks at another request, the ring lets go of `fd`, for which nothing is under way.
  void drop(int fd) noexcept { change(fd, true); }
  // The same, but it takes the file that has the number `fd` now; requests may be under way.
  void refresh(int fd) noexcept { change(fd, false); }

 private:
  friend class UringEngine;
  struct Change {
    int fd;
    bool drop;
  };
  void change(int fd, bool drop) noexcept;

  std::mutex mutex_;
  AioContext* context_;  // null once the ring is gone
  std::vector<Change> changes_;
  std::atomic<bool> any_changes_{false};
};

// Requests are gathered and handed over once a turn; completions are taken from the ring without a
// system call unless the kernel says that it has some in hand. While the loop is awake the ring
// signals nobody; while it sleeps, the context's wake_fd.
class UringEngine final : public PollSource {
 public:
  explicit UringEngine(AioContext& context);
  ~UringEngine() override;

  // 0 if this kernel would give a ring, else its errno.
  static int probe() noexcept;

  bool usable() const noexcept { return usable_; }
  void start(HostRequest& request) noexcept;

  void submit() noexcept override;
  bool poll() noexcept override;
  bool prepare_sleep() noexcept override;
  void finish_sleep() noexcept override;

 private:
  bool prepare(HostRequest& request, io_uring_sqe& sqe) noexcept;
  bool reap() noexcept;
  void settle(HostRequest& request, int answer) noexcept;
  bool kernel_has_work() const noexcept;
  bool hold_file(HostDisk& disk) noexcept;
  void follow_file_changes() noexcept;
  void limit_workers(int disks) noexcept;

  AioContext& context_;
  std::thread::id thread_;
  io_uring ring_{};
  bool usable_ = false;
  HostRequestQueue queue_;
  unsigned queued_ = 0;
  unsigned in_flight_ = 0;
  VectorPool vectors_;
  // By descriptor: the disk to which the ring's registered file of the same number belongs.
  std::vector<HostDisk*> registered_;
  int disks_ = 0;  // among them
  bool may_register_ = false;
  std::shared_ptr<UringFiles> files_;
};

}  // namespace strata
