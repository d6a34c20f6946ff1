// SPDX-License-Identifier: GPL-2.0-or-later
//
// One virtqueue at work: requests are taken from its ring, served by the Backend straight from and
// into the guest's memory, and given back.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/aio/aio_context.h"
#include "block/aio/event_signal.h"
#include "block/aio/fd_watch.h"
#include "block/base/unique_fd.h"
#include "block/coro/event.h"
#include "block/coro/scope.h"
#include "block/export/request_slots.h"
#include "block/export/virtio_blk/device.h"
#include "block/io/backend.h"
#include "block/virtio/blk.h"
#include "block/virtio/dirty_log.h"
#include "block/virtio/ring.h"

namespace strata::virtio_blk {

// The descriptors of a ring's events.
struct RingEvents {
  UniqueFd kick;
  UniqueFd call;
  UniqueFd err;
};

// Where writes to the guest's memory are noted while it migrates.
struct Logging {
  std::shared_ptr<virtio::DirtyLog> log;  // null: they are not
  UniqueFd event;                         // signalled when something was noted; may be empty
  bool used_ring = false;
  uint64_t used_address = 0;  // of the used ring, in the guest
};

// What a front end has said about a ring that is to run.
struct QueueSetup {
  bool packed = false;
  bool in_order = false;
  bool write_through = false;  // the driver knows no flush
  virtio::RingSetup ring;
  std::shared_ptr<const virtio::GuestMemory> memory;
  std::shared_ptr<const virtio::MappedFile> in_flight;
};

// Used and destroyed in its context's thread. The Backend outlives it. While it runs it is one of
// the context's poll sources as long as there is work, and else waits for the driver's kick: a
// queue without work costs nobody anything.
class Queue final : public PollSource {
 public:
  // Bytes of requests under way, after which no more are taken.
  static constexpr uint64_t kMostBytes = uint64_t{64} << 20;
  // Told that the ring broke, in words for the log, and whether its memory was taken away, so that
  // there is no way on. In this context.
  using Report = std::function<void(const std::string& why, bool memory_lost)>;

  // Calls the driver, where no descriptor does. In this context.
  using Call = std::function<void()>;

  Queue(AioContext& context, Backend& backend, const DeviceTraits& traits, Report report);
  ~Queue() override;

  // Empty, or why the ring cannot run. It looks at the ring at once, kick or none.
  std::string start(QueueSetup setup);
  // Takes no more, waits until what was taken has been given back; yields the ring's base.
  // Without a ring that runs, there is none.
  Task<std::optional<uint32_t>> stop();
  bool is_running() const noexcept { return ring_ != nullptr; }

  // Descriptors are eventfds; an empty one is none. Waits for a watcher that is there.
  Task<void> set_kick(UniqueFd fd);
  // The driver does not kick: the ring is looked at now and then.
  Task<void> look_without_kicks();
  void set_call(UniqueFd fd) noexcept;
  // Before start(), in place of a descriptor.
  void set_call(Call call) noexcept { call_back_ = std::move(call); }
  void set_err(UniqueFd fd) noexcept { err_.set(std::move(fd)); }
  void set_logging(Logging logging) noexcept;
  // Gives its descriptors away, once it has stopped.
  Task<RingEvents> take_events();

  // PollSource.
  bool poll() noexcept override;
  bool prepare_sleep() noexcept override;
  void finish_sleep() noexcept override;

 private:
  struct Slot {
    Slot* next = nullptr;  // free, or the next to be given back in order
    bool done = false;     // waits for its turn
    uint32_t written = 0;
    uint64_t cost = 0;  // of kMostBytes
    virtio::Element element;
    virtio::BlkRequest request;
  };

  Task<void> stop_watching();
  Task<void> watch_kicks(CancelToken cancel);
  Task<void> look_now_and_then(CancelToken cancel);
  void take_kick() noexcept;
  void activate();
  void deactivate() noexcept;
  void fall_idle() noexcept;
  bool may_take() const noexcept { return !stopping_ && !broken_ && cost_ < kMostBytes; }
  void process();
  bool take_one();
  void launch(Slot& slot);
  RequestJob serve(Slot& slot);
  Task<Status> execute(const virtio::BlkRequest& request);
  Task<Status> transfer(const virtio::BlkRequest& request);
  void finish(Slot& slot, Status status);
  void answer(Slot& slot, uint8_t status, bool with_data);
  void settle(Slot& slot) noexcept;
  void give_back(Slot& slot) noexcept;
  void publish() noexcept;
  void call_driver() noexcept;
  void log_writes(const Slot& slot) noexcept;
  void break_down(const std::string& why);
  bool is_memory_lost() const noexcept;
  WriteFlags write_flags() const noexcept;

  AioContext& context_;
  Backend& backend_;
  const DeviceTraits& traits_;
  Report report_;
  QueueSetup setup_;
  Logging logging_;
  EventSignal log_event_;
  bool logged_ = false;  // since it was last signalled
  std::unique_ptr<virtio::Ring> ring_;

  UniqueFd kick_;
  EventSignal call_;
  Call call_back_;
  EventSignal err_;
  std::unique_ptr<FdWatch> watch_;
  std::unique_ptr<CancelSource> stop_watching_;
  TaskScope watcher_;

  bool active_ = false;  // a poll source
  bool stopping_ = false;
  bool broken_ = false;
  bool notifiable_ = false;  // the driver has been asked to kick
  unsigned idle_sleeps_ = 0;
  uint64_t cost_ = 0;
  unsigned in_flight_ = 0;
  Event idle_;  // nothing in flight
  RequestSlots<Slot> slots_;
  Slot* oldest_ = nullptr;  // of those in flight, where order is kept
  Slot* newest_ = nullptr;
};

}  // namespace strata::virtio_blk
