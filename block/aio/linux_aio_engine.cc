// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/linux_aio_engine.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cerrno>
#include <cstring>

#include "block/aio/host_disk.h"

namespace strata {
namespace {

constexpr unsigned kDefaultBatch = 32;

// What the kernel maps at the address that is the context's handle.
struct CompletionRing {
  static constexpr unsigned kMagic = 0xa10a10a1;
  unsigned id;
  unsigned entries;
  std::atomic<unsigned> head;
  std::atomic<unsigned> tail;
  unsigned magic;
  unsigned compatible_features;
  unsigned incompatible_features;
  unsigned header_bytes;
  io_event events[1];  // really `entries`
};

CompletionRing* ring_of(io_context_t handle) noexcept {
  auto* ring = reinterpret_cast<CompletionRing*>(handle);
  bool known = ring->magic == CompletionRing::kMagic && ring->incompatible_features == 0;
  return known ? ring : nullptr;
}

}  // namespace

// Ending a context takes the kernel tens of milliseconds, so what worked once is not tried again.
int LinuxAioEngine::probe() noexcept {
  static std::atomic<bool> works{false};
  if (works.load(std::memory_order_relaxed)) return 0;
  io_context_t handle = nullptr;
  int error = io_setup(1, &handle);
  if (error < 0) return -error;
  io_destroy(handle);
  works.store(true, std::memory_order_relaxed);
  return 0;
}

LinuxAioEngine::LinuxAioEngine(AioContext& context) : context_(context) {
  if (io_setup(kMaxEvents, &handle_) < 0) {
    handle_ = nullptr;
    return;
  }
  context_.add_poll_source(*this);
}

LinuxAioEngine::~LinuxAioEngine() {
  if (!usable()) return;
  assert(in_flight_ == 0 && queue_.empty() && "nobody uses an engine that ends");
  context_.remove_poll_source(*this);
  io_destroy(handle_);
}

void LinuxAioEngine::start(HostRequest& request) noexcept {
  queue_.push(request);
  ++queued_;
  uint32_t batch = context_.aio_max_batch();
  uint32_t disk_batch = request.disk().options().max_batch;
  if (batch == 0) batch = kDefaultBatch;
  if (disk_batch != 0) batch = std::min(batch, disk_batch);
  if (queued_ >= batch) submit();
}

bool LinuxAioEngine::prepare(HostRequest& host, iocb& command) noexcept {
  DiskRequest& request = host.request();
  int fd = host.disk().fd();
  if (request.op == DiskRequest::Op::flush) {
    io_prep_fdsync(&command, fd);
  } else {
    bool is_read = request.op == DiskRequest::Op::read;
    auto at = static_cast<long long>(host.offset());
    if (std::byte* piece = host.next_piece()) {
      if (is_read)
        io_prep_pread(&command, fd, piece, host.asked, at);
      else
        io_prep_pwrite(&command, fd, piece, host.asked, at);
    } else {
      host.vector = vectors_.take();
      if (host.vector == nullptr) return false;
      auto [pieces, count] = host.next_part(host.vector);
      if (is_read)
        io_prep_preadv(&command, fd, pieces, int(count), at);
      else
        io_prep_pwritev(&command, fd, pieces, int(count), at);
    }
    if (request.fua && !is_read) command.aio_rw_flags = RWF_DSYNC;
  }
  io_set_eventfd(&command, context_.wake_fd());
  command.data = &host;
  return true;
}

// False if there is nothing to hand over.
bool LinuxAioEngine::fill_batch() noexcept {
  if (batch_first_ == batch_end_) batch_first_ = batch_end_ = 0;
  while (!queue_.empty() && batch_end_ < kMaxBatch && in_flight_ < kMaxEvents) {
    HostRequest& request = queue_.pop();
    --queued_;
    if (!prepare(request, commands_[batch_end_])) {
      request.request().complete_later(-ENOMEM);
      continue;
    }
    batch_[batch_end_++] = &request;
    ++in_flight_;
  }
  return batch_first_ != batch_end_;
}

void LinuxAioEngine::submit() noexcept {
  while (fill_batch()) {
    std::array<iocb*, kMaxBatch> pointers;
    unsigned count = 0;
    for (unsigned i = batch_first_; i != batch_end_; ++i) pointers[count++] = &commands_[i];
    int taken = io_submit(handle_, static_cast<long>(count), pointers.data());
    if (taken > 0) {
      batch_first_ += static_cast<unsigned>(taken);
      continue;
    }
    if (taken == -EINTR) continue;
    // The kernel has no room just now: those that it has will make some.
    if (taken == -EAGAIN && in_flight_ > batch_end_ - batch_first_) return;
    // Otherwise it is the first one that it will not have, as with a file system that knows no
    // asynchronous flush: done the slow way, which gives the true error if there is one.
    --in_flight_;
    do_blocking(*batch_[batch_first_++]);
  }
}

void LinuxAioEngine::do_blocking(HostRequest& request) noexcept {
  vectors_.give_back(std::exchange(request.vector, nullptr));
  context_.service<ThreadPool>().submit(request);
}

bool LinuxAioEngine::has_completions() const noexcept {
  CompletionRing* ring = ring_of(handle_);
  if (ring == nullptr) return true;  // not known without asking
  return ring->head.load(std::memory_order_relaxed) != ring->tail.load(std::memory_order_acquire);
}

unsigned LinuxAioEngine::take(io_event* events, unsigned most) noexcept {
  CompletionRing* ring = ring_of(handle_);
  if (ring == nullptr) {
    timespec no_time{};
    int taken = io_getevents(handle_, 0, most, events, &no_time);
    return taken > 0 ? static_cast<unsigned>(taken) : 0;
  }
  unsigned head = ring->head.load(std::memory_order_relaxed);
  unsigned tail = ring->tail.load(std::memory_order_acquire);
  unsigned taken = 0;
  while (head != tail && taken < most) {
    std::memcpy(&events[taken++], &ring->events[head], sizeof(io_event));
    head = (head + 1) % ring->entries;
  }
  ring->head.store(head, std::memory_order_release);
  return taken;
}

bool LinuxAioEngine::poll() noexcept {
  if (in_flight_ == 0 || !has_completions()) return false;
  std::array<io_event, 128> events;
  unsigned taken = take(events.data(), events.size());
  in_flight_ -= taken;
  for (unsigned i = 0; i < taken; ++i)
    settle(*static_cast<HostRequest*>(events[i].data), static_cast<long>(events[i].res));
  return taken != 0;
}

void LinuxAioEngine::settle(HostRequest& request, long answer) noexcept {
  if (answer == -EAGAIN) return do_blocking(request);
  vectors_.give_back(std::exchange(request.vector, nullptr));
  if (!request.advance(answer)) {
    queue_.push(request);
    ++queued_;
    return;
  }
  request.request().handle.resume();
}

bool LinuxAioEngine::prepare_sleep() noexcept {
  if (in_flight_ == 0) return true;
  if (!queue_.empty() && in_flight_ < kMaxEvents && batch_first_ == batch_end_) return false;
  CompletionRing* ring = ring_of(handle_);
  return ring == nullptr || !has_completions();
}

}  // namespace strata
