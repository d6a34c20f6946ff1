// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/fuse/queue.h"

#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <chrono>
#include <cstring>

namespace strata::fuse_export {
namespace {

// Requests that are taken before everybody else in the context has a turn.
constexpr int kMostBatch = 64;
// Data up to this size is copied out of the buffer it came in, which then serves the next request:
// that costs less than it costs to have a large buffer for each small write.
constexpr size_t kMostCopied = 32 << 10;
constexpr Duration kMemoryPause = std::chrono::milliseconds(50);

}  // namespace

Queue::Queue(AioContext& context, ExportedFile& file, UniqueFd device, std::function<void()> gone)
    : context_(context), file_(file), device_(std::move(device)), gone_(std::move(gone)) {}

Queue::~Queue() {
  assert(in_flight_ == 0 && !buffer_ && "a queue is stopped before it ends");
}

Task<void> Queue::start() {
  scope_.spawn(run(stop_.token()));
  co_return;
}

Task<void> Queue::stop() {
  stopping_ = true;
  stop_.cancel();
  progress_.set();
  co_await scope_.join();
  while (in_flight_ != 0) {
    progress_.reset();
    co_await progress_.wait();
  }
  buffer_.reset();
}

Task<void> Queue::run(CancelToken cancel) {
  FdWatch watch(context_, device_.get());
  while (!stopping_) {
    Taken taken = process();
    if (stopping_) break;
    if (taken == Taken::gone) {
      gone_();
      break;
    }
    co_await wait(taken, watch, cancel);
  }
}

// Until there is a point in trying again.
Task<void> Queue::wait(Taken why, FdWatch& watch, CancelToken cancel) {
  if (why == Taken::request && may_take()) {
    co_await context_.yield();
  } else if (why == Taken::request) {
    progress_.reset();
    co_await progress_.wait();
  } else if (why == Taken::no_memory) {
    std::ignore = co_await context_.sleep_for(kMemoryPause, cancel);
  } else {
    std::ignore = co_await watch.readable(cancel);
  }
}

// What ended it; Taken::request if it has had its share.
Queue::Taken Queue::process() {
  for (int taken = 0; taken < kMostBatch && may_take(); ++taken) {
    Taken result = take_one();
    if (result != Taken::request) return result;
  }
  return Taken::request;
}

Queue::Taken Queue::take_one() {
  if (!buffer_) buffer_ = context_.service<BufferPool>().get(kMostData);
  if (!buffer_) return Taken::no_memory;
  iovec parts[] = {{head_.data(), head_.size()}, {buffer_.data(), kMostData}};
  ssize_t received = 0;
  do {
    received = ::readv(device_.get(), parts, 2);
    if (received == 0) return Taken::gone;  // never from the kernel
    // ENOENT: somebody gave up a request while it was being handed over.
  } while (received < 0 && (errno == EINTR || errno == ENOENT));
  if (received < 0) {
    if (errno == EAGAIN) return Taken::none;
    return errno == ENOMEM ? Taken::no_memory : Taken::gone;
  }
  size_t size = static_cast<size_t>(received);
  size_t rest = size - std::min(size, head_.size());
  Slot& slot = slots_.take();
  Status parsed = parse_request(std::span(head_).first(size - rest),
                                std::span(buffer_.data(), rest), slot.request);
  launch(slot, parsed, rest);
  return Taken::request;
}

// Puts the data of a write where it stays while the request lasts.
bool Queue::keep_payload(Slot& slot, size_t rest) noexcept {
  if (rest > kMostCopied) {
    slot.data = std::move(buffer_);
    return true;
  }
  slot.data = context_.service<BufferPool>().get(rest);
  if (!slot.data) return false;
  std::memcpy(slot.data.data(), buffer_.data(), rest);
  return true;
}

// The kernel is answered by one message that is taken or refused as a whole. It refuses an answer
// to what nobody waits for any more.
void Queue::send(uint64_t unique, Answer answer) noexcept {
  size_t size = answer.error == 0 ? answer.size : 0;
  fuse_out_header header{};
  header.len = static_cast<uint32_t>(sizeof header + size);
  header.error = -answer.error;
  header.unique = unique;
  iovec parts[] = {{&header, sizeof header}, {const_cast<void*>(answer.data), size}};
  ssize_t sent = 0;
  do {
    sent = ::writev(device_.get(), parts, size != 0 ? 2 : 1);
  } while (sent < 0 && errno == EINTR);
}

void Queue::finish(Slot& slot, Answer answer) noexcept {
  if (slot.request.unique != 0) send(slot.request.unique, answer);
  give_back(slot);
}

// Memory that has just been used is in the processor's cache: the next message goes there.
void Queue::give_back(Slot& slot) noexcept {
  if (slot.data.size() >= kMostData) std::swap(buffer_, slot.data);
  slot.data.reset();
  cost_ -= slot.cost;
  slots_.give_back(slot);
  --in_flight_;
  progress_.set();
}

}  // namespace strata::fuse_export
