// SPDX-License-Identifier: GPL-2.0-or-later
//
// From one process to the next, with the front end none the wiser.
#include <fcntl.h>

#include "block/aio/run_in.h"
#include "block/base/error.h"
#include "block/export/vhost_user/session.h"

namespace strata::vhost_user {

// Everything that was taken from the rings has been answered when the state is complete.
Task<void> Session::collect_state() {
  SessionState state;
  state.connection = UniqueFd(::fcntl(stream_.fd(), F_DUPFD_CLOEXEC, 0));
  state.features = features_;
  state.protocol_features = protocol_features_;
  state.status = status_;
  for (const virtio::Region& region : memory_->regions())
    state.regions.push_back(
        {region.description, std::move(region_fds_[region.description.guest_address])});
  if (in_flight_ != nullptr) {
    state.in_flight = in_flight_area_;
    state.in_flight_fd = std::move(in_flight_fd_);
  }
  state.log = log_area_;
  state.log_fd = std::move(log_fd_);
  state.log_event = std::move(log_event_);
  state.backend_channel = std::move(backend_channel_);
  for (uint32_t index = 0; index < vrings_.size(); ++index) {
    co_await pause(index);
    const Vring& ring = vrings_[index];
    RingState one{.size = ring.size,
                  .base = ring.base,
                  .has_addresses = ring.has_addresses,
                  .enabled = ring.enabled,
                  .has_kick = ring.has_kick,
                  .addresses = ring.addresses,
                  .events = {}};
    if (ring.queue != nullptr)
      one.events = co_await run_in(*traits_.contexts[index], ring.queue->take_events());
    state.rings.push_back(std::move(one));
  }
  state_ = std::move(state);
}

Task<void> Session::restore(SessionState state) {
  if (state.rings.size() != vrings_.size())
    throw Error("it has {} queues, the export {}", state.rings.size(), vrings_.size());
  if ((state.features & ~features()) != 0) throw Error("it has features that are not offered");
  features_ = state.features;
  protocol_features_ = state.protocol_features;
  status_ = state.status;
  auto memory = std::make_shared<virtio::GuestMemory>();
  for (RegionState& region : state.regions) {
    memory->add(region.description, region.fd.get());
    region_fds_[region.description.guest_address] = std::move(region.fd);
  }
  memory_ = std::move(memory);
  if (state.in_flight_fd) take_in_flight_area(state.in_flight, std::move(state.in_flight_fd));
  if (state.log_fd) co_await set_log(state.log, std::move(state.log_fd));
  if (state.log_event) co_await set_log_event(std::move(state.log_event));
  backend_channel_ = std::move(state.backend_channel);
  for (RingState& ring : state.rings) co_await restore_ring(std::move(ring));
  co_await update_all();
}

Task<void> Session::restore_ring(RingState state) {
  uint32_t index = state.addresses.index;
  Vring& ring = vring(index);
  ring.size = state.size;
  ring.base = state.base;
  ring.addresses = state.addresses;
  ring.has_addresses = state.has_addresses;
  ring.enabled = state.enabled;
  VringFd of_ring{.index = index, .has_fd = true};
  Fds fds(1);
  if (state.events.call) {
    fds.front() = std::move(state.events.call);
    co_await set_call(of_ring, fds);
  }
  if (state.events.err) {
    fds.front() = std::move(state.events.err);
    co_await set_err(of_ring, fds);
  }
  co_await update_logging(index);
  if (!state.has_kick) co_return;
  of_ring.has_fd = static_cast<bool>(state.events.kick);
  fds.front() = std::move(state.events.kick);
  co_await set_kick(of_ring, fds);
}

}  // namespace strata::vhost_user
