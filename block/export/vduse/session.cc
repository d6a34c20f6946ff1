// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/vduse/session.h"

#include <fmt/format.h>
#include <linux/virtio_config.h>

#include <cerrno>

#include "block/base/error.h"
#include "block/base/log.h"

namespace strata::vduse {

using virtio_blk::bit;

Session::Session(MainLoop& loop, Backend& backend, const SessionTraits& traits, Device& device,
                 InFlightFile& in_flight)
    : loop_(loop),
      backend_(backend),
      traits_(traits),
      device_(device),
      in_flight_(in_flight),
      iotlb_(device, traits.export_id),
      queues_(traits.contexts.size()) {
  for (uint32_t index = 0; index < queues_.size(); ++index) make_queue(index);
}

Session::~Session() = default;

void Session::complain(std::string_view text) const {
  log_error("vduse-blk export '{}': {}", traits_.export_id, text);
}

// The kernel does not say whether the driver was ready; what the predecessor has begun does.
Task<void> Session::resume() {
  bool was_live = false;
  for (uint32_t index = 0; index < queues_.size(); ++index) was_live |= in_flight_.is_in_use(index);
  if (!was_live) co_return;
  if (!accept_features()) throw Error("its driver has features that are not offered");
  status_ = VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
  if (!co_await go_live()) {
    co_await end_life();
    throw Error("a queue that was at work cannot go on");
  }
}

Task<void> Session::run() {
  co_await serve();
  co_await end_life();
}

void Session::stop() noexcept {
  stopping_ = true;
  if (wake_ != nullptr) wake_->cancel();
}

Task<void> Session::serve() {
  FdWatch watch(loop_.context(), device_.fd());
  bool woken = false;
  while (!stopping_) {
    co_await start_late();
    Result<vduse_dev_request> request = device_.receive();
    if (request) {
      woken = false;
      co_await handle(*request);
      continue;
    }
    if (request.error_number() != EAGAIN || (woken && is_broken())) {
      complain("the kernel has given the device up");
      co_return;
    }
    woken = co_await wait(watch);
  }
}

// False where it is not the kernel that wants something.
Task<bool> Session::wait(FdWatch& watch) {
  CancelSource wake;
  wake_ = &wake;
  bool readable = co_await watch.readable(wake.token());
  wake_ = nullptr;
  co_return readable;
}

// Such a device is always ready to be read, and has nothing to say.
bool Session::is_broken() const {
  return device_.features().error_number() == EPERM;
}

Task<void> Session::handle(vduse_dev_request request) {
  vduse_dev_response response{};
  response.request_id = request.request_id;
  bool done = false;
  switch (request.type) {
    case VDUSE_GET_VQ_STATE:
      done = co_await tell_state(request.vq_state.index, response.vq_state);
      break;
    case VDUSE_SET_STATUS:
      done = co_await set_status(request.s.status);
      break;
    case VDUSE_UPDATE_IOTLB:
      co_await renew_memory();
      done = true;
      break;
    default:
      complain(fmt::format("the kernel asks for {}, which is not known", request.type));
  }
  response.result = done ? VDUSE_REQ_RESULT_OK : VDUSE_REQ_RESULT_FAILED;
  Status sent = device_.respond(response);
  if (!sent.ok()) complain("cannot answer: " + Error::describe_errno(sent.error_number()));
}

Task<bool> Session::set_status(uint8_t status) {
  bool ready = (status & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
  bool new_features = (status & ~status_ & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
  if (status == 0) {
    co_await end_life();
    // The next driver begins anew.
    for (uint32_t index = 0; index < queues_.size(); ++index) in_flight_.clear(index);
    features_ = 0;
  } else if ((new_features && !accept_features()) ||
             (ready && (status & VIRTIO_CONFIG_S_FEATURES_OK) == 0)) {
    co_return false;
  } else if (!ready) {
    co_await end_life();
  } else if (!live_ && !co_await go_live()) {
    co_await end_life();
    co_return false;
  }
  status_ = status;
  co_return true;
}

bool Session::accept_features() {
  Result<uint64_t> features = device_.features();
  if (!features || (*features & ~traits_.features) != 0 ||
      (*features & bit(VIRTIO_F_VERSION_1)) == 0) {
    if (features) complain(fmt::format("features {:#x} are not accepted", *features));
    return false;
  }
  features_ = *features;
  return true;
}

// A ring's state is that in which nothing is under way.
Task<bool> Session::tell_state(uint32_t index, vduse_vq_state& state) {
  if (index >= queues_.size()) co_return false;
  VirtQueue& queue = queues_[index];
  bool running = queue.running;
  co_await pause(index);
  state.index = index;
  if (has(bit(VIRTIO_F_RING_PACKED))) {
    state.packed.last_avail_idx = queue.base & 0x7fff;
    state.packed.last_avail_counter = queue.base >> 15 & 1;
    state.packed.last_used_idx = queue.base >> 16 & 0x7fff;
    state.packed.last_used_counter = static_cast<uint16_t>(queue.base >> 31);
  } else {
    state.split.avail_index = static_cast<uint16_t>(queue.base);
  }
  if (running) co_await restart(index);
  co_return true;
}

// Queues stand still meanwhile, and ask for their memory anew. One whose ring is not there now may
// find it after the next change.
Task<void> Session::renew_memory() {
  for (uint32_t index = 0; index < queues_.size(); ++index) co_await pause(index);
  for (uint32_t index = 0; index < queues_.size(); ++index) {
    if (queues_[index].wanted) co_await restart(index);
  }
}

}  // namespace strata::vduse
