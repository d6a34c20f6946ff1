// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/virtio_blk/queue.h"

#include <sys/uio.h>

#include <algorithm>
#include <cassert>
#include <cstring>

namespace strata::virtio_blk {
namespace {

// Elements that are taken before everybody else in the context has a turn.
constexpr int kMostBatch = 256;
// After so many sleeps without work the queue is no poll source any more.
constexpr unsigned kIdleSleeps = 4;
// Between looks at a ring without kicks: after work, and when there has been none for long.
constexpr auto kShortestPause = std::chrono::microseconds(50);
constexpr auto kLongestPause = std::chrono::milliseconds(1);

// Takes a kick. False if the descriptor cannot be read: it would be ready for ever. Does not wait,
// whatever the other side has made of the descriptor's flags.
bool take_signal(int fd) noexcept {
  uint64_t count = 0;
  iovec into{&count, sizeof count};
  return ::preadv2(fd, &into, 1, -1, RWF_NOWAIT) > 0 || errno == EAGAIN;
}

}  // namespace

Queue::Queue(AioContext& context, Backend& backend, const DeviceTraits& traits, Report report)
    : context_(context), backend_(backend), traits_(traits), report_(std::move(report)) {}

Queue::~Queue() {
  assert(ring_ == nullptr && stop_watching_ == nullptr && "a queue is stopped before it ends");
}

std::string Queue::start(QueueSetup setup) {
  assert(ring_ == nullptr);
  setup_ = std::move(setup);
  setup_.ring.memory = setup_.memory.get();
  std::string why;
  ring_ = virtio::Ring::make(setup_.packed, setup_.ring, why);
  if (ring_ == nullptr) {
    setup_ = {};
    return why;
  }
  stopping_ = broken_ = false;
  activate();
  process();
  return {};
}

Task<std::optional<uint32_t>> Queue::stop() {
  if (ring_ == nullptr) co_return std::nullopt;
  stopping_ = true;
  while (in_flight_ != 0) {
    idle_.reset();
    co_await idle_.wait();
  }
  publish();
  deactivate();
  std::optional<uint32_t> base = ring_->base();
  ring_.reset();
  setup_ = {};
  co_return base;
}

Task<void> Queue::stop_watching() {
  if (stop_watching_ == nullptr) co_return;
  stop_watching_->cancel();
  co_await watcher_.join();
  watch_.reset();
  stop_watching_.reset();
}

Task<void> Queue::set_kick(UniqueFd fd) {
  co_await stop_watching();
  kick_ = std::move(fd);
  if (!kick_) co_return;
  watch_ = std::make_unique<FdWatch>(context_, kick_.get());
  stop_watching_ = std::make_unique<CancelSource>();
  watcher_.spawn(watch_kicks(stop_watching_->token()));
}

Task<RingEvents> Queue::take_events() {
  co_await stop_watching();
  co_return RingEvents{std::move(kick_), call_.take(), err_.take()};
}

Task<void> Queue::look_without_kicks() {
  co_await set_kick({});
  stop_watching_ = std::make_unique<CancelSource>();
  watcher_.spawn(look_now_and_then(stop_watching_->token()));
}

// Whoever has swapped descriptors may have missed a signal.
void Queue::set_call(UniqueFd fd) noexcept {
  call_.set(std::move(fd));
  call_.signal();
}

void Queue::set_logging(Logging logging) noexcept {
  log_event_.set(std::move(logging.event));
  logging_ = std::move(logging);
}

Task<void> Queue::watch_kicks(CancelToken cancel) {
  while (co_await watch_->readable(cancel)) {
    if (!take_signal(kick_.get())) co_return;
    take_kick();
  }
}

Task<void> Queue::look_now_and_then(CancelToken cancel) {
  Duration pause = kShortestPause;
  while (co_await context_.sleep_for(pause, cancel)) {
    bool works = active_ || (ring_ != nullptr && may_take() && ring_->has_available());
    pause = works ? kShortestPause : std::min<Duration>(pause * 2, kLongestPause);
    if (works && !active_) take_kick();
  }
}

void Queue::take_kick() noexcept {
  if (ring_ == nullptr || stopping_) return;
  idle_sleeps_ = 0;
  activate();
  process();
}

void Queue::activate() {
  if (active_) return;
  active_ = true;
  idle_sleeps_ = 0;
  ring_->want_notifications(false);
  context_.add_poll_source(*this);
}

void Queue::deactivate() noexcept {
  if (!active_) return;
  active_ = false;
  context_.remove_poll_source(*this);
}

bool Queue::poll() noexcept {
  if (may_take() && ring_->has_available()) {
    idle_sleeps_ = 0;
    process();
    return true;
  }
  if (ring_->has_unpublished()) {
    publish();
    if (is_memory_lost()) break_down({});
    return true;
  }
  if (idle_sleeps_ >= kIdleSleeps && in_flight_ == 0) fall_idle();
  return false;
}

// Asks for a kick before it looks once more, so that none is missed.
void Queue::fall_idle() noexcept {
  ring_->want_notifications(true);
  if (!may_take() || !ring_->has_available()) deactivate();
}

bool Queue::prepare_sleep() noexcept {
  if (ring_->has_unpublished()) return false;
  if (!may_take()) return true;
  notifiable_ = true;
  ring_->want_notifications(true);
  return !ring_->has_available();
}

void Queue::finish_sleep() noexcept {
  if (ring_ == nullptr || !notifiable_) return;
  notifiable_ = false;
  ring_->want_notifications(false);
  ++idle_sleeps_;
}

void Queue::process() {
  for (int taken = 0; taken < kMostBatch && may_take(); ++taken) {
    if (!take_one()) break;
  }
  publish();
  if (is_memory_lost()) break_down({});
}

bool Queue::take_one() {
  Slot& slot = slots_.take();
  switch (ring_->take(slot.element)) {
    case virtio::Ring::Taken::element:
      launch(slot);
      return true;
    case virtio::Ring::Taken::none:
      break;
    case virtio::Ring::Taken::broken:
      break_down(ring_->problem());
      break;
  }
  slots_.give_back(slot);
  return false;
}

void Queue::break_down(const std::string& why) {
  if (broken_) return;
  broken_ = true;
  err_.signal();
  // A ring whose memory is gone looks broken, too.
  if (is_memory_lost())
    report_("the guest's memory was taken away", true);
  else
    report_(why, false);
}

bool Queue::is_memory_lost() const noexcept {
  return setup_.memory->is_damaged() ||
         (setup_.in_flight != nullptr && setup_.in_flight->is_damaged()) ||
         (logging_.log != nullptr && logging_.log->is_damaged());
}

// Gives back what has been answered: at once, or when everything before it has been.
void Queue::settle(Slot& slot) noexcept {
  if (!setup_.in_order) return give_back(slot);
  slot.done = true;
  while (oldest_ != nullptr && oldest_->done) {
    Slot& first = *oldest_;
    oldest_ = first.next;
    if (oldest_ == nullptr) newest_ = nullptr;
    give_back(first);
  }
}

void Queue::give_back(Slot& slot) noexcept {
  if (logging_.log != nullptr) log_writes(slot);
  ring_->give_back(slot.element, slot.written);
  cost_ -= slot.cost;
  slots_.give_back(slot);
  if (--in_flight_ == 0 && stopping_) idle_.set();
}

void Queue::publish() noexcept {
  if (!ring_->has_unpublished()) return;
  bool wanted = ring_->publish();
  if (logging_.log != nullptr && logging_.used_ring) {
    auto [offset, bytes] = ring_->used_area();
    logging_.log->mark(logging_.used_address + offset, bytes);
    logged_ = true;
  }
  if (std::exchange(logged_, false)) log_event_.signal();
  if (wanted) call_driver();
}

void Queue::call_driver() noexcept {
  if (call_back_)
    call_back_();
  else
    call_.signal();
}

void Queue::log_writes(const Slot& slot) noexcept {
  uint64_t left = slot.request.status != nullptr ? slot.element.writable : 0;
  for (size_t i = slot.element.readable_parts; i < slot.element.parts.size() && left != 0; ++i) {
    const iovec& part = slot.element.parts[i];
    auto address = setup_.memory->guest_address(static_cast<const std::byte*>(part.iov_base));
    if (address) logging_.log->mark(*address, part.iov_len);
    logged_ = true;
  }
}

}  // namespace strata::virtio_blk
