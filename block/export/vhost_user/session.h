// SPDX-License-Identifier: GPL-2.0-or-later
//
// One front end's connection: what it has said about its guest's memory and rings, and the queues
// that work on them.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block/aio/main_loop.h"
#include "block/aio/socket_stream.h"
#include "block/export/vhost_user/message.h"
#include "block/export/vhost_user/session_state.h"
#include "block/export/virtio_blk/queue.h"

namespace strata::vhost_user {

using virtio_blk::DeviceTraits;
using virtio_blk::Logging;
using virtio_blk::Queue;
using virtio_blk::QueueSetup;
using virtio_blk::RingEvents;

// What all sessions of an export have in common. Does not change.
struct SessionTraits {
  std::string export_id;
  DeviceTraits device;
  // The context of each queue; as many as there are queues.
  std::vector<AioContext*> contexts;
  // Sessions keep the descriptors that a successor would need.
  bool may_hand_over = false;
};

// Lives in the main loop; its queues work in their contexts.
class Session {
 public:
  // The Backend and the traits outlive it.
  Session(MainLoop& loop, UniqueFd connection, Backend& backend, const SessionTraits& traits);
  // After run() has ended.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Serves until the front end disconnects, breaks the protocol or is shut out; ends when all
  // requests have ended.
  Task<void> run();
  // Any time, also before run().
  void shut_down() noexcept { stream_.shutdown(); }
  // run() ends after the message that is being received, if one is, and the front end learns
  // nothing of it.
  void hand_over() noexcept { handing_over_.cancel(); }
  // After run(): what a successor goes on with, if it ended because of hand_over().
  std::optional<SessionState> take_state() noexcept { return std::move(state_); }
  // Before run(): goes on where a predecessor ended. Throws Error.
  Task<void> restore(SessionState state);
  // The configuration space has changed: tells the front end if it wants to know.
  void announce_config_change() noexcept;

 private:
  struct Vring {
    uint16_t size = 0;
    uint32_t base = 0;
    bool has_addresses = false;
    bool enabled = false;
    bool has_kick = false;  // the front end has said where kicks come from, or that none do
    bool running = false;
    VringAddress addresses;
    std::unique_ptr<Queue> queue;
  };
  using Fds = std::vector<UniqueFd>;

  // Receiving and answering.
  Task<bool> receive_and_handle();
  Task<bool> receive(IoVector into, Fds& fds, CancelToken cancel = {});
  Task<void> limit_receiving(CancelToken done);
  Task<bool> handle(Message message, Fds fds);
  Task<bool> send(Reply reply, int fd = -1);
  // Throw Error where the message asks for what cannot be. Yield whether a reply of its own was
  // sent.
  Task<bool> dispatch(const Message& message, Fds& fds);
  Task<bool> answer_query(const Message& message);
  Task<bool> change_device(const Message& message, Fds& fds);
  Task<bool> change_memory(const Message& message, Fds& fds);
  Task<bool> change_ring(const Message& message, Fds& fds);
  void complain(std::string_view text) const;

  // The device (session.cc).
  uint64_t features() const noexcept;
  Reply read_config(const ConfigAccess& access) const noexcept;
  void write_config(const ConfigAccess& access);
  Task<void> set_features(uint64_t features);
  Task<void> set_status(uint64_t status);
  Task<void> reset();

  // Memory (session_memory.cc).
  Task<void> set_memory(std::shared_ptr<const virtio::GuestMemory> memory);
  Task<void> set_mem_table(const MemoryTable& table, Fds& fds);
  Task<void> add_region(const virtio::RegionDescription& region, Fds& fds);
  Task<void> remove_region(const virtio::RegionDescription& region);
  Task<bool> make_in_flight_area(const InFlightArea& wanted);
  void take_in_flight_area(const InFlightArea& area, UniqueFd fd);
  Task<void> set_log(const LogArea& area, UniqueFd fd);
  Task<void> set_log_event(UniqueFd fd);

  // Rings (session_rings.cc).
  Vring& vring(uint32_t index);
  Vring& stopped_vring(uint32_t index, std::string_view what);
  static UniqueFd checked_event(UniqueFd fd);
  Task<void> set_addresses(const VringAddress& addresses);
  Task<void> set_kick(const VringFd& message, Fds& fds);
  Task<void> set_call(const VringFd& message, Fds& fds);
  Task<void> set_err(const VringFd& message, Fds& fds);
  Task<bool> get_base(uint32_t index);
  Task<void> update(uint32_t index);  // starts or stops the ring as its state asks for
  Task<void> start(uint32_t index);
  Task<void> pause(uint32_t index);
  Task<void> pause_all();
  Task<void> update_all();
  Task<void> update_logging(uint32_t index);
  QueueSetup setup_for(uint32_t index) const;
  Task<void> end_queues();

  // Handing over (session_state.cc has the format; session_hand_over.cc).
  Task<void> collect_state();
  Task<void> restore_ring(RingState state);
  void report(uint32_t index, const std::string& why, bool memory_lost);

  MainLoop& loop_;
  Backend& backend_;
  const SessionTraits& traits_;
  SocketStream stream_;

  uint64_t features_ = 0;
  uint64_t protocol_features_ = 0;
  uint64_t status_ = 0;
  std::vector<Vring> vrings_;
  std::shared_ptr<const virtio::GuestMemory> memory_;
  std::shared_ptr<virtio::DirtyLog> log_;
  UniqueFd log_event_;
  std::shared_ptr<const virtio::MappedFile> in_flight_;
  InFlightArea in_flight_area_;
  UniqueFd backend_channel_;

  CancelSource handing_over_;
  bool cut_ = false;  // between two messages, to be handed over
  std::optional<SessionState> state_;
  // Only where traits_.may_hand_over.
  std::map<uint64_t, UniqueFd> region_fds_;  // by guest address
  UniqueFd in_flight_fd_;
  UniqueFd log_fd_;
  LogArea log_area_;
};

}  // namespace strata::vhost_user
