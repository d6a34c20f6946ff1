// SPDX-License-Identifier: GPL-2.0-or-later
//
// When queues run, and on what.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "block/aio/run_in.h"
#include "block/base/error.h"
#include "block/export/vduse/session.h"
#include "block/virtio/layout.h"

namespace strata::vduse {

using virtio_blk::bit;
using virtio_blk::Queue;
using virtio_blk::QueueSetup;

namespace {

// The driver may have missed a call that a predecessor, or this queue before it stopped, owed it.
Task<std::string> start_queue(Queue& queue, Interrupt& interrupt, QueueSetup setup) {
  std::string why = queue.start(std::move(setup));
  if (why.empty()) interrupt.raise();
  co_return why;
}
Task<std::optional<uint32_t>> stop_queue(Queue& queue, Interrupt& interrupt) {
  std::optional<uint32_t> base = co_await queue.stop();
  co_await interrupt.stop();
  co_return base;
}
Task<void> destroy_queue(std::unique_ptr<Queue> queue, std::unique_ptr<Interrupt> interrupt) {
  co_await queue->set_kick({});
  co_await interrupt->stop();
}

}  // namespace

void Session::make_queue(uint32_t index) {
  VirtQueue& made = queues_[index];
  AioContext& context = *traits_.contexts[index];
  made.interrupt = std::make_unique<Interrupt>(context, device_, index);
  made.queue = std::make_unique<Queue>(context, backend_, traits_.device,
                                       [this, index](const std::string& why, bool) {
                                         complain(fmt::format("queue {}: {}", index, why));
                                       });
  made.queue->set_call([&interrupt = *made.interrupt] { interrupt.raise(); });
}

bool Session::make_kick(uint32_t index) {
  UniqueFd kick(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  Status set = kick ? device_.set_kick(index, kick.get()) : Status::error(errno);
  if (!set.ok()) {
    complain(fmt::format("queue {} cannot be kicked: {}", index,
                         Error::describe_errno(set.error_number())));
    return false;
  }
  queues_[index].kick = std::move(kick);
  return true;
}

Task<bool> Session::go_live() {
  live_ = true;
  end_of_life_ = std::make_unique<CancelSource>();
  for (uint32_t index = 0; index < queues_.size(); ++index) {
    if (!make_kick(index) || !co_await start_if_ready(index)) co_return false;
  }
  co_return true;
}

Task<void> Session::end_life() {
  if (!live_) co_return;
  live_ = false;
  end_of_life_->cancel();
  co_await watchers_.join();
  late_.clear();
  for (uint32_t index = 0; index < queues_.size(); ++index) {
    VirtQueue& queue = queues_[index];
    co_await pause(index);
    queue.wanted = false;
    std::ignore = device_.set_kick(index, VDUSE_EVENTFD_DEASSIGN);
    queue.kick.reset();
    co_await run_in(*traits_.contexts[index], queue.queue->set_kick({}));
  }
}

// False if it is ready, but cannot run. A queue that is not ready begins when it is first kicked.
Task<bool> Session::start_if_ready(uint32_t index) {
  Result<vduse_vq_info> info = device_.queue_info(index);
  if (info && info->ready != 0) co_return co_await start(index, *info);
  watchers_.spawn(watch_for_driver(index, end_of_life_->token()));
  co_return true;
}

Task<void> Session::watch_for_driver(uint32_t index, CancelToken cancel) {
  FdWatch watch(loop_.context(), queues_[index].kick.get());
  if (!co_await watch.readable(cancel)) co_return;
  uint64_t kicks = 0;
  std::ignore = ::read(queues_[index].kick.get(), &kicks, sizeof kicks);
  late_.push_back(index);
  if (wake_ != nullptr) wake_->cancel();
}

Task<void> Session::start_late() {
  if (late_.empty()) co_return;
  for (uint32_t index : std::exchange(late_, {})) co_await start_if_ready(index);
}

Task<bool> Session::start(uint32_t index, vduse_vq_info info) {
  VirtQueue& queue = queues_[index];
  AioContext& context = *traits_.contexts[index];
  queue.wanted = true;
  std::string why = "its size is invalid";
  if (info.num != 0 && info.num <= traits_.queue_size) {
    if (queue.kick) co_await run_in(context, queue.queue->set_kick(std::move(queue.kick)));
    why = co_await run_in(context,
                          start_queue(*queue.queue, *queue.interrupt, setup_for(index, info)));
  }
  queue.running = why.empty();
  if (!queue.running) complain(fmt::format("queue {} cannot run: {}", index, why));
  co_return queue.running;
}

Task<void> Session::restart(uint32_t index) {
  Result<vduse_vq_info> info = device_.queue_info(index);
  if (info && info->ready != 0) co_await start(index, *info);
}

QueueSetup Session::setup_for(uint32_t index, const vduse_vq_info& info) {
  QueueSetup setup;
  setup.packed = has(bit(VIRTIO_F_RING_PACKED));
  setup.write_through = !has(bit(VIRTIO_BLK_F_FLUSH));
  // Of its own: it grows while the queue works.
  setup.memory = std::make_shared<virtio::GuestMemory>(iotlb_);
  setup.ring.addresses = {info.desc_addr, info.driver_addr, info.device_addr};
  setup.ring.size = static_cast<uint16_t>(info.num);
  setup.ring.base = base_of(info);
  setup.ring.event_index = has(bit(VIRTIO_RING_F_EVENT_IDX));
  setup.in_flight = in_flight_.mapping();
  setup.ring.in_flight = in_flight_.area(index);
  setup.ring.in_flight_size = traits_.queue_size;
  return setup;
}

uint32_t Session::base_of(const vduse_vq_info& info) const noexcept {
  if (!has(bit(VIRTIO_F_RING_PACKED))) return info.split.avail_index;
  auto position = [](uint16_t index, uint16_t counter) -> uint32_t {
    return (index & 0x7fffu) | (counter & 1u) << 15;
  };
  return position(info.packed.last_avail_idx, info.packed.last_avail_counter) |
         position(info.packed.last_used_idx, info.packed.last_used_counter) << 16;
}

Task<void> Session::pause(uint32_t index) {
  VirtQueue& queue = queues_[index];
  if (!queue.running) co_return;
  auto base = co_await run_in(*traits_.contexts[index], stop_queue(*queue.queue, *queue.interrupt));
  queue.running = false;
  if (base) queue.base = *base;
}

Task<void> Session::end() {
  co_await end_life();
  for (uint32_t index = 0; index < queues_.size(); ++index) {
    VirtQueue& queue = queues_[index];
    co_await run_in(*traits_.contexts[index],
                    destroy_queue(std::move(queue.queue), std::move(queue.interrupt)));
  }
}

}  // namespace strata::vduse
