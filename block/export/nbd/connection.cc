// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/nbd/connection.h"

#include <fmt/format.h>

#include <cerrno>

#include "block/aio/aio_context.h"
#include "block/aio/stream.h"
#include "block/export/nbd/export.h"

namespace strata::nbd_export {
namespace {

using nbd::Command;
using nbd::Request;

// Batches in a row that one connection may take before others of its context have a turn.
constexpr int kBatchesInARow = 16;
// What BLOCK_STATUS may use for its extents, all contexts together.
constexpr size_t kStatusBytes = 64 * 1024;
// Replies that are worth a system call of their own.
constexpr size_t kFlushBytes = 256 * 1024;

size_t cost_of(const Request& request, nbd::ReplyMode mode) noexcept {
  if (request.length > nbd::kMaxPayload) return 0;
  uint64_t payload = nbd::payload_length(request, mode);
  if (request.command == Command::read || payload != 0) {
    return static_cast<size_t>(std::max(request.length, payload));
  }
  return request.command == Command::block_status ? kStatusBytes : 0;
}

}  // namespace

Connection::Connection(AioContext& context, Stream& stream, const Agreement& agreement)
    : context_(context),
      stream_(stream),
      agreement_(agreement),
      export_(*agreement.target),
      terms_{.mode = agreement.mode,
             .size = export_.size(),
             .read_only = export_.read_only(),
             .has_contexts = agreement.contexts.count() != 0},
      pool_(context.service<BufferPool>()),
      receive_memory_(pool_.get(kReceiveBytes)),
      received_({receive_memory_.data(), receive_memory_.size()}) {}

Connection::~Connection() = default;

Task<void> Connection::run() {
  if (!received_.room().empty()) {
    scope_.spawn(send_loop());
    int batches = 0;
    while (co_await take_batch() && co_await receive()) {
      if (++batches % kBatchesInARow == 0) co_await context_.yield();
    }
    closing_ = true;
    to_send_.raise_later();
  }
  co_await scope_.join();
}

Task<bool> Connection::take_batch() {
  const size_t header_size = nbd::request_size(terms_.mode);
  receiving_ = true;
  bool go_on = true;
  while (go_on && received_.unread().size() >= header_size) {
    auto request = nbd::decode_request(received_.unread().data(), terms_.mode);
    if (!request) {
      answer_bad_magic();
      go_on = false;
      break;
    }
    received_.consume(header_size);
    if (request->command == Command::disconnect) {
      go_on = false;
      break;
    }
    Slot* slot = try_admit(cost_of(*request, terms_.mode));
    if (slot == nullptr) slot = co_await admit(cost_of(*request, terms_.mode));
    if (slot == nullptr) {
      go_on = false;
      break;
    }
    slot->request = *request;
    go_on = co_await start(*slot);
  }
  flush();
  receiving_ = false;
  co_return go_on && !broken_;
}

// Waits for more; what has been answered must have been flushed. False at the end of the stream.
Task<bool> Connection::receive() {
  bool was_receiving = std::exchange(receiving_, false);
  Result<size_t> got = co_await stream_.read_some(received_.room());
  receiving_ = was_receiving;
  if (!got || *got == 0) co_return false;
  received_.received(*got);
  co_return true;
}

// Answers as QEMU does, with whatever stands where the cookie should be, and ends.
void Connection::answer_bad_magic() {
  const std::byte* bytes = received_.unread().data();
  Slot* slot = try_admit(0);
  if (slot == nullptr) return;
  slot->request = {.cookie = nbd::load<uint64_t>(bytes + 8)};
  fail(*slot, EINVAL, fmt::format("invalid magic (got 0x{:x})", nbd::load<uint32_t>(bytes)));
}

Connection::Slot* Connection::try_admit(size_t cost) {
  if (slots_used_ == kMostSlots) return nullptr;
  if (bytes_used_ != 0 && bytes_used_ + cost > kMostBytes) return nullptr;
  if (free_slots_ == nullptr) {
    slots_.push_back(std::make_unique<Slot>());
    free_slots_ = slots_.back().get();
  }
  Slot* slot = std::exchange(free_slots_, free_slots_->next);
  slot->next = nullptr;
  slot->cost = cost;
  ++slots_used_;
  bytes_used_ += cost;
  return slot;
}

// Null when the connection broke meanwhile.
Task<Connection::Slot*> Connection::admit(size_t cost) {
  Slot* slot = nullptr;
  while (slot == nullptr) {
    flush();
    receiving_ = false;
    co_await room_.wait();
    receiving_ = true;
    if (broken_) co_return nullptr;
    slot = try_admit(cost);
  }
  co_return slot;
}

Task<bool> Connection::start(Slot& slot) {
  uint64_t payload = nbd::payload_length(slot.request, terms_.mode);
  auto fault = check_before_payload(slot.request, terms_);
  if (!fault) fault = check_request(slot.request, terms_);
  if (fault) return refuse(slot, *std::move(fault), payload);
  if (payload == 0) {
    launch(slot, 0);
    return Task<bool>::ready(true);
  }
  slot.buffer = pool_.get(payload);
  if (!slot.buffer) return refuse(slot, {ENOMEM, "No memory"}, payload);
  if (payload > received_.unread().size()) return receive_and_launch(slot, payload);
  received_.take({slot.buffer.data(), payload});
  launch(slot, payload);
  return Task<bool>::ready(true);
}

// Everything of the request is here.
void Connection::launch(Slot& slot, size_t payload) {
  if (slot.request.command == Command::block_status && payload != 0 &&
      !take_status_payload(slot, payload)) {
    return fail(slot, EINVAL, "invalid payload for BLOCK_STATUS");
  }
  scope_.spawn(serve(slot));
}

Task<bool> Connection::refuse(Slot& slot, RequestFault fault, uint64_t payload) {
  bool go_on = !fault.disconnect;
  if (go_on && payload != 0) go_on = co_await discard_payload(payload);
  fail(slot, fault.error, fault.text);
  co_return go_on;
}

Task<bool> Connection::receive_and_launch(Slot& slot, size_t payload) {
  bool received = co_await receive_payload(slot, payload);
  if (received) {
    launch(slot, payload);
  } else {
    recycle(slot);
  }
  co_return received;
}

// What came with the header is copied; the rest is received where it belongs, and behind it, in the
// same call, whatever follows.
Task<bool> Connection::receive_payload(Slot& slot, size_t length) {
  size_t done = received_.take({slot.buffer.data(), length});
  if (done < length) flush();
  while (done < length) {
    IoVector room = received_.room();
    iovec parts[2] = {{slot.buffer.data() + done, length - done}, {room.contiguous(), room.size()}};
    receiving_ = false;
    Result<size_t> got = co_await stream_.read_some(IoVector(parts));
    receiving_ = true;
    if (!got || *got == 0) co_return false;
    size_t ours = std::min(*got, length - done);
    done += ours;
    received_.received(*got - ours);
  }
  co_return true;
}

Task<bool> Connection::discard_payload(uint64_t length) {
  for (;;) {
    size_t here = std::min<uint64_t>(length, received_.unread().size());
    received_.consume(here);
    length -= here;
    if (length == 0) co_return true;
    flush();
    if (!co_await receive()) co_return false;
  }
}

// The range and the contexts of a BLOCK_STATUS that brings its own.
bool Connection::take_status_payload(Slot& slot, size_t length) {
  auto payload = nbd::parse_status_payload({slot.buffer.data(), length});
  if (!payload || payload->count() == 0 || payload->count() > agreement_.contexts.count()) {
    return false;
  }
  for (size_t i = 0; i < payload->count(); ++i) {
    if (!agreement_.contexts.contains(payload->id(i))) return false;
    for (size_t j = 0; j < i; ++j) {
      if (payload->id(j) == payload->id(i)) return false;
    }
  }
  Request& request = slot.request;
  if (payload->effect_length == 0 || request.offset > terms_.size ||
      payload->effect_length > terms_.size - request.offset) {
    return false;
  }
  request.length = payload->effect_length;
  slot.wanted_contexts = payload->ids;
  return true;
}

void Connection::fail(Slot& slot, int error, std::string_view text) {
  slot.reply.set_error(terms_.mode, slot.request, error, text);
  finish(slot);
}

// The slot's reply is complete.
void Connection::finish(Slot& slot) {
  if (broken_) return recycle(slot);
  slot.next = nullptr;
  *answered_end_ = &slot;
  answered_end_ = &slot.next;
  answered_bytes_ += slot.reply.size();
  if (!receiving_) {
    to_send_.raise_later();
  } else if (answered_bytes_ >= kFlushBytes) {
    flush();
  }
}

void Connection::flush() {
  if (answered_ != nullptr) to_send_.raise_now();
}

Task<void> Connection::send_loop() {
  while (!closing_ || slots_used_ != 0) {
    if (answered_ == nullptr) {
      co_await to_send_.wait();
      continue;
    }
    Slot* sending = gather();
    Status sent;
    if (!broken_) sent = co_await stream_.write(gathered_);
    if (!sent) break_off();
    while (sending != nullptr) recycle(*std::exchange(sending, sending->next));
  }
}

// Takes answered slots off the queue, as many as fit one system call, and lists their memory.
Connection::Slot* Connection::gather() {
  gathered_.clear();
  Slot* first = answered_;
  Slot** link = &first;
  while (*link != nullptr) {
    std::span<const iovec> parts = (*link)->reply.parts();
    if (!gathered_.empty() && gathered_.size() + parts.size() > IOV_MAX) break;
    gathered_.insert(gathered_.end(), parts.begin(), parts.end());
    answered_bytes_ -= (*link)->reply.size();
    link = &(*link)->next;
  }
  answered_ = std::exchange(*link, nullptr);
  if (answered_ == nullptr) answered_end_ = &answered_;
  return first;
}

void Connection::recycle(Slot& slot) noexcept {
  slot.reply.clear();
  slot.buffer.reset();
  slot.pieces.clear();
  slot.wanted_contexts = {};
  bytes_used_ -= slot.cost;
  --slots_used_;
  slot.next = std::exchange(free_slots_, &slot);
  room_.raise_later();
  if (closing_ && slots_used_ == 0) to_send_.raise_later();
}

// The client can no longer be told anything. What is in flight ends unanswered.
void Connection::break_off() noexcept {
  broken_ = true;
  stream_.shutdown();
  room_.raise_later();
}

}  // namespace strata::nbd_export
