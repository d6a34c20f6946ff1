// SPDX-License-Identifier: GPL-2.0-or-later
//
// One front end's connection: what it has said about its guest's memory and rings, and the queues
// that work on them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/aio/main_loop.h"
#include "block/aio/socket_stream.h"
#include "block/export/vhost_user/message.h"
#include "block/export/vhost_user/queue.h"

namespace strata::vhost_user {

// What all sessions of an export have in common. Does not change.
struct SessionTraits {
  std::string export_id;
  DeviceTraits device;
  // The context of each queue; as many as there are queues.
  std::vector<AioContext*> contexts;
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
  Task<bool> receive(IoVector into, Fds& fds);
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

  // Rings (session_rings.cc).
  Vring& vring(uint32_t index);
  Vring& stopped_vring(uint32_t index, std::string_view what);
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
};

}  // namespace strata::vhost_user
