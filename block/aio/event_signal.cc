// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/event_signal.h"

#include <liburing.h>
#include <unistd.h>

#include <cstdint>
#include <new>
#include <tuple>

namespace strata {

struct EventSignal::Ring {
  static std::unique_ptr<Ring> make() noexcept {
    std::unique_ptr<Ring> ring(new (std::nothrow) Ring);
    if (ring == nullptr || io_uring_queue_init(1, &ring->uring, 0) < 0) return nullptr;
    ring->usable = true;
    return ring;
  }
  ~Ring() {
    if (usable) io_uring_queue_exit(&uring);
  }

  // One completion is one signal.
  void complete_one() noexcept {
    io_uring_sqe* sqe = io_uring_get_sqe(&uring);
    if (sqe == nullptr) return;
    io_uring_prep_nop(sqe);
    io_uring_submit(&uring);
    io_uring_cq_advance(&uring, io_uring_cq_ready(&uring));
  }

  io_uring uring{};
  bool usable = false;
};

EventSignal::EventSignal() noexcept = default;
EventSignal::~EventSignal() = default;

void EventSignal::set(UniqueFd fd) noexcept {
  if (fd_ && ring_) io_uring_unregister_eventfd(&ring_->uring);
  fd_ = std::move(fd);
  if (!fd_) return;
  if (ring_ == nullptr) ring_ = Ring::make();
  if (ring_ != nullptr && io_uring_register_eventfd(&ring_->uring, fd_.get()) < 0) ring_.reset();
}

UniqueFd EventSignal::take() noexcept {
  UniqueFd fd = std::move(fd_);
  if (fd && ring_) io_uring_unregister_eventfd(&ring_->uring);
  return fd;
}

void EventSignal::signal() noexcept {
  if (!fd_) return;
  if (ring_ != nullptr) return ring_->complete_one();
  uint64_t one = 1;
  // EAGAIN: it has been signalled more often than anybody could have looked.
  std::ignore = ::write(fd_.get(), &one, sizeof one);
}

}  // namespace strata
