// SPDX-License-Identifier: GPL-2.0-or-later
//
// The Linux AIO context (io_submit(2)) of one AioContext: the engine "native". Private to this
// room.
#pragma once

#include <libaio.h>

#include <array>

#include "block/aio/aio_context.h"
#include "block/aio/host_request.h"

namespace strata {

// Requests are gathered and handed over once a turn, or when a batch is full; completions are taken
// from the ring that the kernel maps into the process, without a system call. Each signals the
// context's wake_fd.
class LinuxAioEngine final : public PollSource {
 public:
  explicit LinuxAioEngine(AioContext& context);
  ~LinuxAioEngine() override;

  // 0 if this kernel would give a context, else its errno.
  static int probe() noexcept;

  bool usable() const noexcept { return handle_ != nullptr; }
  void start(HostRequest& request) noexcept;

  void submit() noexcept override;
  bool poll() noexcept override;
  bool prepare_sleep() noexcept override;

 private:
  static constexpr unsigned kMaxEvents = 1024;
  static constexpr unsigned kMaxBatch = 64;

  bool fill_batch() noexcept;
  bool prepare(HostRequest& request, iocb& command) noexcept;
  bool has_completions() const noexcept;
  unsigned take(io_event* events, unsigned most) noexcept;
  void settle(HostRequest& request, long answer) noexcept;
  void do_blocking(HostRequest& request) noexcept;

  AioContext& context_;
  io_context_t handle_ = nullptr;
  HostRequestQueue queue_;
  unsigned queued_ = 0;
  unsigned in_flight_ = 0;
  VectorPool vectors_;
  // Prepared for the kernel; what it would not take yet comes first in the next call.
  std::array<iocb, kMaxBatch> commands_;
  std::array<HostRequest*, kMaxBatch> batch_;
  unsigned batch_first_ = 0;
  unsigned batch_end_ = 0;
};

}  // namespace strata
