// SPDX-License-Identifier: GPL-2.0-or-later
//
// What is done for each request.
#include <algorithm>
#include <cerrno>

#include "block/export/fuse/queue.h"

namespace strata::fuse_export {
namespace {

// For how long the kernel may believe what it was told about the file, in seconds.
constexpr uint64_t kAttributesValid = 1;
// What a request without data counts for.
constexpr uint64_t kLeastCost = 4096;

fuse_attr_out attributes_of(ExportedFile& file) noexcept {
  fuse_attr_out out{};
  out.attr_valid = kAttributesValid;
  out.attr = file.attributes();
  return out;
}

}  // namespace

void Queue::launch(Slot& slot, Status parsed, size_t rest) {
  const Request& request = slot.request;
  slot.cost = std::max(request.bytes, kLeastCost);
  if (request.opcode != FUSE_READ && request.opcode != FUSE_WRITE) slot.cost = kLeastCost;
  cost_ += slot.cost;
  ++in_flight_;
  if (!parsed.ok()) return finish(slot, parsed);
  switch (request.opcode) {
    case FUSE_READ:
      serve_read(slot);
      break;
    case FUSE_WRITE:
      if (!keep_payload(slot, rest)) return finish(slot, Status::error(ENOMEM));
      serve_write(slot);
      break;
    case FUSE_FLUSH:
    case FUSE_FSYNC:
    case FUSE_FALLOCATE:
    case FUSE_LSEEK:
    case FUSE_SETATTR:
      serve_other(slot);
      break;
    default:
      answer_at_once(slot);
  }
}

void Queue::answer_at_once(Slot& slot) {
  const Request& request = slot.request;
  switch (request.opcode) {
    case FUSE_INIT:
      return answer_init_request(slot);
    case FUSE_GETATTR:
      return finish_with(slot, attributes_of(file_));
    case FUSE_OPEN: {
      fuse_open_out out{};
      out.open_flags = ExportedFile::open_flags(request.mode);
      return finish_with(slot, out);
    }
    case FUSE_STATFS:
      return finish_with(slot, fuse_statfs_out{file_.space()});
    case FUSE_RELEASE:
    case FUSE_DESTROY:
      return finish(slot, Status());
    default:
      // The kernel does not ask again for what it is told that we do not know.
      if (!wants_answer(request.opcode)) return give_back(slot);
      return finish(slot, Status::error(ENOSYS));
  }
}

void Queue::answer_init_request(Slot& slot) {
  std::optional<fuse_init_out> answer = answer_init(slot.request.init);
  if (!answer) return finish(slot, Status::error(EPROTO));
  finish_with(slot, *answer);
}

RequestJob Queue::serve_read(Slot& slot) {
  const Request& request = slot.request;
  size_t size = file_.readable(request.offset, request.bytes);
  if (size == 0) {
    finish(slot, Status());
    co_return;
  }
  slot.data = context_.service<BufferPool>().get(size);
  if (!slot.data) {
    finish(slot, Status::error(ENOMEM));
    co_return;
  }
  Status status = co_await file_.read(request.offset, IoVector::buffer(slot.data.data(), size));
  finish(slot, {.error = status.error_number(), .size = size, .data = slot.data.data()});
}

RequestJob Queue::serve_write(Slot& slot) {
  const Request& request = slot.request;
  const void* data = slot.data.data();
  Result<uint64_t> written =
      co_await file_.write(request.offset, IoVector::buffer(data, request.bytes));
  if (!written) {
    finish(slot, written.status());
    co_return;
  }
  fuse_write_out out{};
  out.size = static_cast<uint32_t>(*written);
  finish_with(slot, out);
}

RequestJob Queue::serve_other(Slot& slot) {
  const Request& request = slot.request;
  Status status;
  if (request.opcode == FUSE_LSEEK) {
    Result<uint64_t> found = co_await file_.seek(request.offset, request.mode);
    fuse_lseek_out out{};
    if (found) out.offset = *found;
    finish(slot, {.error = found.error_number(), .size = sizeof out, .data = &out});
    co_return;
  }
  if (request.opcode == FUSE_SETATTR) {
    status = co_await file_.change(request.attributes);
    fuse_attr_out out = attributes_of(file_);
    finish(slot, {.error = status.error_number(), .size = sizeof out, .data = &out});
    co_return;
  }
  if (request.opcode == FUSE_FALLOCATE)
    status = co_await file_.allocate(request.mode, request.offset, request.bytes);
  else
    status = co_await file_.flush();
  finish(slot, status);
}

}  // namespace strata::fuse_export
