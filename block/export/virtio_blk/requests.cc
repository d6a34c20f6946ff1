// SPDX-License-Identifier: GPL-2.0-or-later
//
// What is done for each request.
#include <algorithm>
#include <cstring>

#include "block/export/virtio_blk/queue.h"
#include "block/io/backend.h"

namespace strata::virtio_blk {
namespace {

using virtio::BlkCommand;
using virtio::BlkRequest;

// Longer requests are served in pieces, one after the other, so that what may have to be copied on
// the way stays small.
constexpr uint64_t kMostPiece = uint64_t{16} << 20;

}  // namespace

void Queue::launch(Slot& slot) {
  slot.request = virtio::parse_blk_request(
      slot.element,
      {.bytes = backend_.length(), .block_size = traits_.block_size, .writable = traits_.writable});
  slot.cost = std::min<uint64_t>(slot.request.data.size(), kMostPiece);
  slot.done = false;
  cost_ += slot.cost;
  ++in_flight_;
  if (setup_.in_order) {
    slot.next = nullptr;
    (newest_ != nullptr ? newest_->next : oldest_) = &slot;
    newest_ = &slot;
  }
  if (slot.request.status == nullptr || slot.request.verdict != VIRTIO_BLK_S_OK) {
    answer(slot, slot.request.verdict, false);
  } else if (slot.request.command == BlkCommand::get_id) {
    std::array<char, VIRTIO_BLK_ID_BYTES> id{};
    size_t size = std::min(id.size(), slot.request.data.size());
    std::ranges::copy_n(traits_.serial.begin(), std::min(size, traits_.serial.size()), id.begin());
    slot.request.data.slice(0, size).copy_from(id.data());
    answer(slot, VIRTIO_BLK_S_OK, true);
  } else {
    serve(slot);
  }
}

RequestJob Queue::serve(Slot& slot) {
  Status status = co_await execute(slot.request);
  finish(slot, status);
}

WriteFlags Queue::write_flags() const noexcept {
  return setup_.write_through ? WriteFlags(WriteFlag::fua) : WriteFlags();
}

Task<Status> Queue::execute(const BlkRequest& request) {
  switch (request.command) {
    case BlkCommand::read:
      if (request.data.size() > kMostPiece) return transfer(request);
      return backend_.preadv(request.offset, request.data);
    case BlkCommand::write:
      if (request.data.size() > kMostPiece) return transfer(request);
      return backend_.pwritev(request.offset, request.data, write_flags());
    case BlkCommand::flush:
      return backend_.flush();
    case BlkCommand::discard:
      return backend_.pdiscard(request.offset, request.bytes);
    case BlkCommand::write_zeroes: {
      WriteFlags flags = write_flags();
      if (request.unmap) flags |= WriteFlag::may_unmap;
      return backend_.pwrite_zeroes(request.offset, request.bytes, flags);
    }
    case BlkCommand::get_id:
    case BlkCommand::unsupported:
      break;
  }
  return Task<Status>::ready(Status::error(ENOTSUP));
}

Task<Status> Queue::transfer(const BlkRequest& request) {
  for (uint64_t done = 0; done < request.data.size();) {
    uint64_t size = std::min<uint64_t>(request.data.size() - done, kMostPiece);
    IoVector piece = request.data.slice(done, size);
    Status status = request.command == BlkCommand::read
                        ? co_await backend_.preadv(request.offset + done, piece)
                        : co_await backend_.pwritev(request.offset + done, piece, write_flags());
    if (!status) co_return status;
    done += size;
  }
  co_return Status();
}

void Queue::finish(Slot& slot, Status status) {
  uint8_t verdict = VIRTIO_BLK_S_OK;
  if (status.error_number() == ENOTSUP)
    verdict = VIRTIO_BLK_S_UNSUPP;
  else if (!status)
    verdict = VIRTIO_BLK_S_IOERR;
  answer(slot, verdict, slot.request.command == BlkCommand::read);
}

void Queue::answer(Slot& slot, uint8_t status, bool with_data) {
  slot.written = slot.request.written(with_data);
  if (slot.request.status != nullptr) *slot.request.status = static_cast<std::byte>(status);
  settle(slot);
}

}  // namespace strata::virtio_blk
