// SPDX-License-Identifier: GPL-2.0-or-later
//
// A device at work: what the kernel says about its driver, and the queues that serve it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/aio/fd_watch.h"
#include "block/aio/main_loop.h"
#include "block/coro/event.h"
#include "block/coro/scope.h"
#include "block/export/vduse/device.h"
#include "block/export/vduse/in_flight_file.h"
#include "block/export/vduse/interrupt.h"
#include "block/export/vduse/iotlb.h"
#include "block/export/virtio_blk/queue.h"

namespace strata::vduse {

// Does not change.
struct SessionTraits {
  std::string export_id;
  virtio_blk::DeviceTraits device;
  uint64_t features = 0;    // offered
  uint16_t queue_size = 0;  // at most
  // The context of each queue; as many as there are queues.
  std::vector<AioContext*> contexts;
};

// Lives in the main loop; its queues work in their contexts.
class Session {
 public:
  // All of them outlive it.
  Session(MainLoop& loop, Backend& backend, const SessionTraits& traits, Device& device,
          InFlightFile& in_flight);
  // After end().
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Goes on where a predecessor ended, if it had got that far. Throws Error. Before run().
  Task<void> resume();
  // Does what the kernel asks for until it is stopped, or the kernel gives the device up; ends when
  // all requests have ended.
  Task<void> run();
  // To be awaited last.
  Task<void> end();
  void stop() noexcept;

  // Whether a driver uses the device.
  bool is_live() const noexcept { return live_; }

 private:
  struct VirtQueue {
    std::unique_ptr<virtio_blk::Queue> queue;
    std::unique_ptr<Interrupt> interrupt;
    bool wanted = false;  // the driver has made it ready
    bool running = false;
    uint32_t base = 0;  // of the ring, when it last stopped
    UniqueFd kick;      // until it first runs
  };

  // Messages.
  Task<void> serve();
  Task<bool> wait(FdWatch& watch);
  bool is_broken() const;
  Task<void> handle(vduse_dev_request request);
  Task<bool> set_status(uint8_t status);
  bool accept_features();
  Task<bool> tell_state(uint32_t index, vduse_vq_state& state);
  Task<void> renew_memory();

  // The driver is ready; it is not any more.
  Task<bool> go_live();
  Task<void> end_life();

  // Queues (session_queues.cc).
  void make_queue(uint32_t index);
  bool make_kick(uint32_t index);
  Task<bool> start_if_ready(uint32_t index);
  Task<void> watch_for_driver(uint32_t index, CancelToken cancel);
  Task<void> start_late();
  Task<bool> start(uint32_t index, vduse_vq_info info);
  Task<void> restart(uint32_t index);
  virtio_blk::QueueSetup setup_for(uint32_t index, const vduse_vq_info& info);
  uint32_t base_of(const vduse_vq_info& info) const noexcept;
  Task<void> pause(uint32_t index);
  bool has(uint64_t feature_bit) const noexcept { return (features_ & feature_bit) != 0; }
  void complain(std::string_view text) const;

  MainLoop& loop_;
  Backend& backend_;
  const SessionTraits& traits_;
  Device& device_;
  InFlightFile& in_flight_;
  Iotlb iotlb_;

  uint64_t features_ = 0;  // accepted
  uint8_t status_ = 0;
  bool live_ = false;
  std::vector<VirtQueue> queues_;
  bool stopping_ = false;
  CancelSource* wake_ = nullptr;  // of wait(), while it waits
  // Queues that became ready after their driver, and those who watch for them.
  std::vector<uint32_t> late_;
  std::unique_ptr<CancelSource> end_of_life_;
  TaskScope watchers_;
};

}  // namespace strata::vduse
