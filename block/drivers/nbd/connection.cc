// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/nbd/connection.h"

#include <climits>

#include <cassert>
#include <cerrno>

#include "block/aio/aio_context.h"
#include "block/nbd/error_codes.h"

namespace strata::nbd_client {
namespace {

using nbd::Command;
using nbd::ReplyHeader;
using nbd::ReplyMode;
using nbd::ReplyType;

// Of the parts of one receive.
constexpr size_t kMostParts = 64;
// What else than data a reply may bring: an error's text, the extents of a block status.
constexpr uint64_t kMostSmallPayload = 64 * 1024;

size_t index_of(uint64_t cookie) noexcept {
  return cookie % Connection::kMostCalls;
}

}  // namespace

Connection::Connection(AioContext& context, std::unique_ptr<Channel> channel, ExportInfo info)
    : context_(context),
      channel_(std::move(channel)),
      info_(std::move(info)),
      receive_memory_(kReceiveBytes),
      received_({receive_memory_.data(), receive_memory_.size()}) {
  broken_ = !receive_memory_;
}

Connection::~Connection() {
  assert(under_way_ == 0 && !sending_ && !receiving_);
}

Task<void> Connection::perform(Call& call) {
  Semaphore::Units units = co_await room_.acquire();
  if (broken_) {
    call.outcome = Call::Outcome::lost;
    co_return;
  }
  size_t slot = 0;
  while (calls_[slot] != nullptr) ++slot;
  next_cookie_ += kMostCalls;
  call.request.cookie = next_cookie_ + slot;
  calls_[slot] = &call;
  ++under_way_;
  ++unanswered_;
  call.next = nullptr;
  *queued_end_ = &call;
  queued_end_ = &call.next;

  struct Answer {
    Connection& connection;
    Call& call;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> caller) {
      call.waiter.suspend(caller);
      // The answer is given on a later turn, whatever happens in here.
      if (!connection.sending_) connection.scope_.spawn(connection.send_queued());
      if (!connection.receiving_) connection.scope_.spawn(connection.receive_replies());
    }
    void await_resume() const noexcept {}
  };
  co_await Answer{*this, call};
}

// ---- Sending

Task<void> Connection::send_queued() {
  sending_ = true;
  // Where several are under way, others of this turn may want to go along.
  if (under_way_ > 1) co_await context_.yield();
  while (queued_ != nullptr && !broken_) {
    gather();
    Status sent = co_await channel_->stream().write(sending_parts_);
    for (Call* call : sending_calls_) {
      call->sent = true;
      if (call->done) let_go(*call);
    }
    sending_calls_.clear();
    if (!sent) break_off();
  }
  sending_ = false;
  ended();
}

// Takes queued calls, as many as fit one system call, and lists their memory.
void Connection::gather() {
  sending_parts_.clear();
  while (queued_ != nullptr) {
    Call& call = *queued_;
    bool has_payload = call.request.command == Command::write;
    size_t parts = 1 + (has_payload ? call.data.parts() : 0);
    if (!sending_parts_.empty() && sending_parts_.size() + parts > IOV_MAX) break;
    size_t size = nbd::encode_request(call.header, call.request, info_.mode);
    sending_parts_.push_back({call.header.data(), size});
    if (has_payload) {
      call.data.for_each(
          [this](std::byte* data, size_t length) { sending_parts_.push_back({data, length}); });
    }
    sending_calls_.push_back(&call);
    call.on_wire = true;
    queued_ = call.next;
    if (queued_ == nullptr) queued_end_ = &queued_;
  }
}

// ---- Receiving

Task<void> Connection::receive_replies() {
  receiving_ = true;
  while (unanswered_ != 0 && !broken_) {
    if (!co_await receive_reply()) break_off();
  }
  receiving_ = false;
  ended();
}

// Makes sure that so many bytes are there to be looked at; at most kReceiveBytes.
Task<bool> Connection::want(size_t bytes) {
  while (received_.unread().size() < bytes) {
    Result<size_t> got = co_await channel_->stream().read_some(received_.room());
    if (!got || *got == 0) co_return false;
    received_.received(*got);
  }
  co_return true;
}

Task<bool> Connection::receive_reply() {
  if (received_.unread().size() < sizeof(uint32_t) && !co_await want(sizeof(uint32_t)))
    co_return false;
  auto size = nbd::reply_header_size(nbd::load<uint32_t>(received_.unread().data()), info_.mode);
  if (!size) co_return violated();
  if (received_.unread().size() < *size && !co_await want(*size)) co_return false;
  auto header = nbd::decode_reply_header(received_.unread().first(*size), info_.mode);
  received_.consume(*size);
  Call* call = header ? find(header->cookie) : nullptr;
  if (call == nullptr) co_return violated();
  if (!header->simple) co_return co_await take_chunk(*call, *header);

  bool has_data = false;
  if (!take_simple(*call, *header, has_data)) co_return false;
  if (has_data && !co_await take_data(*call, call->request.offset, call->request.length))
    co_return false;
  co_return finish(*call);
}

bool Connection::take_simple(Call& call, const ReplyHeader& header, bool& has_data) noexcept {
  bool is_read = call.request.command == Command::read;
  // With structured replies agreed on, what has data to bring may not come this way.
  bool needs_chunks = is_read || call.request.command == Command::block_status;
  if (needs_chunks && info_.mode != ReplyMode::simple && header.error == nbd::WireError::none)
    return violated();
  call.error = nbd::from_wire_error(header.error);
  has_data = is_read && call.error == 0;
  return true;
}

Task<bool> Connection::take_chunk(Call& call, ReplyHeader header) {
  if (header.type == ReplyType::offset_data) {
    constexpr size_t kOffset = sizeof(uint64_t);
    if (call.request.command != Command::read || header.length <= kOffset) co_return violated();
    if (!co_await want(kOffset)) co_return false;
    auto offset = nbd::load<uint64_t>(received_.unread().data());
    received_.consume(kOffset);
    if (!co_await take_data(call, offset, header.length - kOffset)) co_return false;
  } else {
    if (header.length > kMostSmallPayload) co_return violated();
    if (!co_await want(header.length)) co_return false;
    if (!take_payload(call, header, received_.unread().first(header.length))) co_return violated();
    received_.consume(header.length);
  }
  co_return !header.done() || finish(call);
}

// False where the payload is not what it should be.
bool Connection::take_payload(Call& call, const ReplyHeader& header, nbd::ConstBytes payload) {
  if (is_error(header.type)) {
    auto chunk = nbd::parse_error_chunk(header.type, payload);
    if (!chunk) return false;
    if (call.error == 0) call.error = nbd::from_wire_error(chunk->error);
    return true;
  }
  switch (header.type) {
    case ReplyType::none:
      return payload.empty() && header.done();
    case ReplyType::offset_hole: {
      auto hole = nbd::parse_hole_chunk(payload);
      if (!hole || call.request.command != Command::read) return false;
      if (!nbd::within(call.request, hole->offset, hole->length)) return false;
      if (!call.covered.add(hole->offset, hole->length)) return false;
      call.data.slice(hole->offset - call.request.offset, hole->length).fill(std::byte{0});
      return true;
    }
    case ReplyType::block_status:
    case ReplyType::block_status_ext:
      return take_status(call, header, payload);
    default:
      return false;
  }
}

bool Connection::take_status(Call& call, const ReplyHeader& header, nbd::ConstBytes payload) {
  bool is_extended = header.type == ReplyType::block_status_ext;
  if (call.request.command != Command::block_status) return false;
  if (is_extended != (info_.mode == ReplyMode::extended)) return false;
  auto status = nbd::parse_block_status(payload, info_.mode);
  if (!status || status->id() != info_.context || call.extent) return false;
  call.extent = status->extent(0);
  return true;
}

// Data of a READ, from the buffer and, what is not there yet, from the socket to where it belongs;
// behind it, in the same call, whatever follows.
Task<bool> Connection::take_data(Call& call, uint64_t offset, uint64_t length) {
  if (!nbd::within(call.request, offset, length)) co_return violated();
  if (!call.covered.add(offset, length)) co_return violated();
  IoVector into = call.data.slice(offset - call.request.offset, length);
  size_t done = std::min<size_t>(length, received_.unread().size());
  if (done != 0) into.slice(0, done).copy_from(received_.unread().data());
  received_.consume(done);
  while (done < length) {
    std::array<iovec, kMostParts> parts;
    IoVector rest = into.slice(done, length - done);
    size_t count = rest.export_to(std::span(parts).first(kMostParts - 1));
    size_t ours = 0;
    for (size_t i = 0; i < count; ++i) ours += parts[i].iov_len;
    if (ours == rest.size()) {
      IoVector room = received_.room();
      parts[count++] = {room.contiguous(), room.size()};
    }
    Result<size_t> got =
        co_await channel_->stream().read_some(IoVector(std::span(parts).first(count)));
    if (!got || *got == 0) co_return false;
    ours = std::min(*got, ours);
    done += ours;
    received_.received(*got - ours);
  }
  co_return true;
}

// The last reply to the call has come. False where something is missing.
bool Connection::finish(Call& call) noexcept {
  if (call.error == 0) {
    const nbd::Request& request = call.request;
    if (request.command == Command::read && !call.covered.is_whole(request.offset, request.length))
      return violated();
    if (request.command == Command::block_status && !call.extent) return violated();
  }
  call.outcome = Call::Outcome::answered;
  call.done = true;
  calls_[index_of(call.request.cookie)] = nullptr;
  --unanswered_;
  if (call.sent) let_go(call);
  return true;
}

// ---- Ends

Call* Connection::find(uint64_t cookie) const noexcept {
  Call* call = calls_[index_of(cookie)];
  // What has not been asked yet cannot be answered.
  bool is_asked = call != nullptr && call->on_wire && call->request.cookie == cookie;
  return is_asked ? call : nullptr;
}

// Both the kernel and the server have done with it.
void Connection::let_go(Call& call) noexcept {
  --under_way_;
  call.waiter.resume_later();
}

void Connection::break_off() noexcept {
  broken_ = true;
  channel_->shutdown();
}

// A coroutine has ended: when the other one has, too, nobody touches the calls' memory any more.
void Connection::ended() noexcept {
  if (!broken_ || sending_ || receiving_) return;
  queued_ = nullptr;
  queued_end_ = &queued_;
  for (Call*& call : calls_) {
    if (call == nullptr) continue;
    call->outcome = Call::Outcome::lost;
    let_go(*std::exchange(call, nullptr));
  }
  unanswered_ = 0;
}

Task<void> Connection::disconnect() {
  if (broken_) co_return;
  std::array<std::byte, nbd::kMaxRequestSize> header;
  size_t size = nbd::encode_request(header, {.command = Command::disconnect}, info_.mode);
  std::ignore = co_await channel_->stream().write_all({header.data(), size});
  co_await channel_->close();
  broken_ = true;
}

}  // namespace strata::nbd_client
