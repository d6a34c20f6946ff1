// SPDX-License-Identifier: GPL-2.0-or-later
//
// Rings: what the front end says of them, and when they run.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/virtio_config.h>
#include <sys/stat.h>

#include "block/aio/run_in.h"
#include "block/base/error.h"
#include "block/export/vhost_user/session.h"
#include "block/virtio/in_flight.h"

namespace strata::vhost_user {

// Signals go through eventfds. Throws Error for what is none.
UniqueFd Session::checked_event(UniqueFd fd) {
  struct stat status;
  int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fstat(fd.get(), &status) != 0)
    throw Error::from_errno(errno, "the descriptor cannot be used");
  // Anonymous inodes have no type.
  if ((flags & O_PATH) != 0 || (status.st_mode & S_IFMT) != 0)
    throw Error("the descriptor is no eventfd");
  if (::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0)
    throw Error::from_errno(errno, "the descriptor cannot be used");
  return fd;
}

namespace {

UniqueFd fd_of(const VringFd& message, std::vector<UniqueFd>& fds) {
  return message.has_fd ? std::move(fds.front()) : UniqueFd();
}

Task<std::string> start_queue(Queue& queue, QueueSetup setup) {
  co_return queue.start(std::move(setup));
}
Task<void> hand_call(Queue& queue, UniqueFd fd) {
  queue.set_call(std::move(fd));
  co_return;
}
Task<void> hand_err(Queue& queue, UniqueFd fd) {
  queue.set_err(std::move(fd));
  co_return;
}
Task<void> hand_logging(Queue& queue, Logging logging) {
  queue.set_logging(std::move(logging));
  co_return;
}
Task<void> end_queue(std::unique_ptr<Queue> queue) {
  co_await queue->stop();
  co_await queue->set_kick({});
}

}  // namespace

Task<bool> Session::change_ring(const Message& message, Fds& fds) {
  switch (message.request) {
    case Request::set_vring_num: {
      const auto& state = message.get<VringState>();
      if (state.num == 0 || state.num > virtio::kMostRingSize)
        throw Error("a ring of size {}", state.num);
      stopped_vring(state.index, "size").size = static_cast<uint16_t>(state.num);
      break;
    }
    case Request::set_vring_base: {
      const auto& state = message.get<VringState>();
      stopped_vring(state.index, "base").base = state.num;
      break;
    }
    case Request::set_vring_addr:
      co_await set_addresses(message.get<VringAddress>());
      break;
    case Request::get_vring_base:
      co_return co_await get_base(message.get<VringState>().index);
    case Request::set_vring_kick:
      co_await set_kick(message.get<VringFd>(), fds);
      break;
    case Request::set_vring_call:
      co_await set_call(message.get<VringFd>(), fds);
      break;
    case Request::set_vring_err:
      co_await set_err(message.get<VringFd>(), fds);
      break;
    default: {
      const auto& state = message.get<VringState>();
      vring(state.index).enabled = state.num != 0;
      co_await update(state.index);
    }
  }
  co_return false;
}

Session::Vring& Session::vring(uint32_t index) {
  if (index >= vrings_.size()) throw Error("there is no ring {}", index);
  Vring& ring = vrings_[index];
  if (ring.queue == nullptr) {
    ring.queue = std::make_unique<Queue>(
        *traits_.contexts[index], backend_, traits_.device,
        [this, index](const std::string& why, bool lost) { report(index, why, lost); });
  }
  return ring;
}

Session::Vring& Session::stopped_vring(uint32_t index, std::string_view what) {
  Vring& ring = vring(index);
  if (ring.running) throw Error("the {} of ring {} changes while it runs", what, index);
  return ring;
}

// While the ring runs, only the way its use is logged can change.
Task<void> Session::set_addresses(const VringAddress& addresses) {
  Vring& ring = vring(addresses.index);
  const VringAddress& old = ring.addresses;
  bool moved = addresses.descriptors != old.descriptors || addresses.used != old.used ||
               addresses.available != old.available;
  if (ring.running && moved)
    throw Error("the addresses of ring {} change while it runs", addresses.index);
  ring.addresses = addresses;
  ring.has_addresses = true;
  co_await update_logging(addresses.index);
  co_await update(addresses.index);
}

Task<void> Session::set_kick(const VringFd& message, Fds& fds) {
  UniqueFd fd = fd_of(message, fds);
  if (fd) fd = checked_event(std::move(fd));
  Vring& ring = vring(message.index);
  ring.has_kick = true;
  co_await run_in(*traits_.contexts[message.index],
                  fd ? ring.queue->set_kick(std::move(fd)) : ring.queue->look_without_kicks());
  co_await update(message.index);
}

Task<void> Session::set_call(const VringFd& message, Fds& fds) {
  UniqueFd fd = fd_of(message, fds);
  if (fd) fd = checked_event(std::move(fd));
  Vring& ring = vring(message.index);
  co_await run_in(*traits_.contexts[message.index], hand_call(*ring.queue, std::move(fd)));
}

Task<void> Session::set_err(const VringFd& message, Fds& fds) {
  UniqueFd fd = fd_of(message, fds);
  if (fd) fd = checked_event(std::move(fd));
  Vring& ring = vring(message.index);
  co_await run_in(*traits_.contexts[message.index], hand_err(*ring.queue, std::move(fd)));
}

Task<bool> Session::get_base(uint32_t index) {
  Vring& ring = vring(index);
  co_await pause(index);
  ring.has_kick = false;
  co_await run_in(*traits_.contexts[index], ring.queue->set_kick({}));
  co_await send(Reply(Request::get_vring_base).state({index, ring.base}));
  co_return true;
}

Task<void> Session::update(uint32_t index) {
  const Vring& ring = vrings_[index];
  bool shall_run = ring.has_kick && ring.enabled && ring.has_addresses && ring.size != 0;
  if (shall_run && !ring.running) co_await start(index);
  if (!shall_run && ring.running) co_await pause(index);
}

QueueSetup Session::setup_for(uint32_t index) const {
  const Vring& ring = vrings_[index];
  QueueSetup setup;
  setup.packed = (features_ & bit(VIRTIO_F_RING_PACKED)) != 0;
  setup.in_order = (features_ & bit(VIRTIO_F_IN_ORDER)) != 0;
  setup.write_through = (features_ & bit(VIRTIO_BLK_F_FLUSH)) == 0;
  setup.memory = memory_;
  setup.ring.addresses = {ring.addresses.descriptors, ring.addresses.available,
                          ring.addresses.used};
  setup.ring.size = ring.size;
  setup.ring.base = ring.base;
  setup.ring.event_index = (features_ & bit(VIRTIO_RING_F_EVENT_IDX)) != 0;
  if (in_flight_ != nullptr && index < in_flight_area_.queues) {
    uint64_t bytes = virtio::in_flight_bytes(setup.packed, in_flight_area_.queue_size);
    if ((index + 1) * bytes > in_flight_->size())
      throw Error("ring {} is outside the in-flight area", index);
    setup.in_flight = in_flight_;
    setup.ring.in_flight = in_flight_->data() + index * bytes;
    setup.ring.in_flight_size = in_flight_area_.queue_size;
  }
  return setup;
}

Task<void> Session::start(uint32_t index) {
  Vring& ring = vrings_[index];
  std::string why =
      co_await run_in(*traits_.contexts[index], start_queue(*ring.queue, setup_for(index)));
  if (!why.empty()) throw Error("ring {} cannot run: {}", index, why);
  ring.running = true;
}

Task<void> Session::pause(uint32_t index) {
  Vring& ring = vrings_[index];
  if (!ring.running) co_return;
  auto base = co_await run_in(*traits_.contexts[index], ring.queue->stop());
  ring.running = false;
  if (base) ring.base = *base;
}

Task<void> Session::pause_all() {
  for (uint32_t index = 0; index < vrings_.size(); ++index) co_await pause(index);
}

Task<void> Session::update_all() {
  for (uint32_t index = 0; index < vrings_.size(); ++index) co_await update(index);
}

Task<void> Session::update_logging(uint32_t index) {
  Vring& ring = vrings_[index];
  if (ring.queue == nullptr) co_return;
  Logging logging;
  if ((features_ & kLogAll) != 0) {
    logging.log = log_;
    if (log_event_) logging.event = UniqueFd(::fcntl(log_event_.get(), F_DUPFD_CLOEXEC, 0));
  }
  logging.used_ring = ring.addresses.log;
  logging.used_address = ring.addresses.log_address;
  co_await run_in(*traits_.contexts[index], hand_logging(*ring.queue, std::move(logging)));
}

Task<void> Session::end_queues() {
  for (uint32_t index = 0; index < vrings_.size(); ++index) {
    if (vrings_[index].queue == nullptr) continue;
    co_await run_in(*traits_.contexts[index], end_queue(std::move(vrings_[index].queue)));
  }
}

// From the queue's thread. A front end whose memory is no more has no use for the rest either.
void Session::report(uint32_t index, const std::string& why, bool memory_lost) {
  complain(fmt::format("queue {}: {}", index, why));
  if (memory_lost) stream_.shutdown();
}

}  // namespace strata::vhost_user
