// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "block/base/aligned_buffer.h"
#include "block/base/log.h"
#include "block/coro/scope.h"
#include "tools/img/convert.h"

namespace strata::tools {
namespace {

constexpr uint64_t kBufferSize = 2 << 20;
constexpr uint64_t kMaxZeroRun = 1 << 30;

[[noreturn]] void throw_errno(int error, std::string_view what, uint64_t offset) {
  throw Error::from_errno(error, "error while {} at byte {}", what, offset);
}

// The length of the run from `data` on that is all zero, or has no zero run of `unit` bytes.
struct Run {
  bool zero;
  uint64_t bytes;
};
Run next_run(const std::byte* data, uint64_t bytes, uint64_t unit) noexcept {
  auto is_zero_at = [&](uint64_t at) {
    return is_zero_memory(data + at, std::min(unit, bytes - at));
  };
  bool zero = is_zero_at(0);
  uint64_t at = std::min(unit, bytes);
  while (at < bytes && is_zero_at(at) == zero) at += std::min(unit, bytes - at);
  return {zero, at};
}

}  // namespace

ImageCopy::ImageCopy(std::vector<Backend*> sources, Backend& target, CopyOptions options,
                     Progress& progress)
    : sources_(std::move(sources)), target_(target), options_(options), progress_(progress) {
  for (const Backend* source : sources_) total_ += source->length();
}

ImageCopy::Place ImageCopy::locate(uint64_t offset) const noexcept {
  for (Backend* source : sources_) {
    if (offset < source->length()) return {source, offset, source->length() - offset};
    offset -= source->length();
  }
  return {};
}

// The next stretch that nobody copies yet; none is left when `bytes` is 0.
Task<ImageCopy::Piece> ImageCopy::next_piece() {
  Mutex::Lock lock = co_await cursor_lock_.lock();
  Piece piece;
  piece.offset = cursor_;
  if (failed_) co_return piece;
  Place place = locate(cursor_);
  if (place.image == nullptr) co_return piece;
  auto status = co_await place.image->block_status(place.offset, place.left);
  if (!status && !options_.salvage)
    throw_errno(status.error_number(), "reading block status", cursor_);
  if (!status) {
    if (!options_.quiet)
      log_warning("error while reading block status at offset {}: {}", cursor_,
                  Error::describe_errno(status.error_number()));
    piece.bytes = std::min(place.left, kSectorSize);
  } else {
    piece.zero = status->status.flags.has(StatusFlag::zero);
    piece.bytes = std::min(place.left, status->status.bytes);
  }
  piece.bytes = std::min(piece.bytes, piece.zero ? kMaxZeroRun : kBufferSize);
  piece.turn = next_turn_++;
  cursor_ += piece.bytes;
  co_return piece;
}

Task<void> ImageCopy::wait_for_turn(uint64_t turn) {
  if (!options_.in_order) co_return;
  while (turn_ != turn && !failed_) co_await turned_.wait();
}

Task<void> ImageCopy::read(uint64_t offset, std::byte* buffer, uint64_t bytes) {
  while (bytes != 0) {
    Place place = locate(offset);
    uint64_t size = std::min(bytes, place.left);
    Status status = co_await place.image->preadv(place.offset, IoVector::buffer(buffer, size));
    if (!status.ok()) {
      if (!options_.salvage) throw_errno(status.error_number(), "reading", offset);
      // The sectors around the bad one may still be there.
      if (size > kSectorSize) {
        size = kSectorSize;
        status = co_await place.image->preadv(place.offset, IoVector::buffer(buffer, size));
      }
      if (!status.ok()) {
        if (!options_.quiet)
          log_warning("error while reading offset {}: {}", offset,
                      Error::describe_errno(status.error_number()));
        std::memset(buffer, 0, size);
      }
    }
    offset += size;
    buffer += size;
    bytes -= size;
  }
}

Task<void> ImageCopy::write_zeroes(uint64_t offset, uint64_t bytes) {
  if (options_.target_is_zero) co_return;
  Status status = co_await target_.pwrite_zeroes(offset, bytes, WriteFlag::may_unmap);
  if (!status.ok()) throw_errno(status.error_number(), "writing", offset);
}

Task<void> ImageCopy::write(uint64_t offset, const std::byte* buffer, uint64_t bytes) {
  while (bytes != 0) {
    Run run{false, bytes};
    if (options_.sparse_bytes != 0) run = next_run(buffer, bytes, options_.sparse_bytes);
    if (run.zero) {
      co_await write_zeroes(offset, run.bytes);
    } else {
      Status status = co_await target_.pwritev(offset, IoVector::buffer(buffer, run.bytes));
      if (!status.ok()) throw_errno(status.error_number(), "writing", offset);
    }
    offset += run.bytes;
    buffer += run.bytes;
    bytes -= run.bytes;
  }
}

Task<void> ImageCopy::copy(Piece piece, std::byte* buffer) {
  // Without looking for zeroes, all of the target is to be allocated.
  bool as_data = !piece.zero || options_.sparse_bytes == 0;
  if (as_data && !piece.zero) co_await read(piece.offset, buffer, piece.bytes);
  co_await wait_for_turn(piece.turn);
  if (failed_) co_return;
  if (!as_data) {
    co_await write_zeroes(piece.offset, piece.bytes);
    co_return;
  }
  if (piece.zero) std::memset(buffer, 0, kBufferSize);
  for (uint64_t done = 0; done < piece.bytes;) {
    uint64_t size = std::min(piece.bytes - done, kBufferSize);
    co_await write(piece.offset + done, buffer, size);
    done += size;
  }
}

Task<void> ImageCopy::work() {
  AlignedBuffer buffer(kBufferSize);
  try {
    if (!buffer) throw Error::from_errno(ENOMEM, "Could not allocate a buffer");
    for (;;) {
      Piece piece = co_await next_piece();
      if (piece.bytes == 0) break;
      co_await copy(piece, buffer.data());
      turn_ = std::max(turn_, piece.turn + 1);
      turned_.set();
      turned_.reset();
      progress_.advance(piece.bytes);
    }
  } catch (const Error& error) {
    if (!failed_) failed_ = error;
    turned_.set();
  }
}

Task<void> ImageCopy::run() {
  TaskScope scope;
  for (int i = 0; i < options_.workers; ++i) scope.spawn(work());
  co_await scope.join();
  if (failed_) throw *failed_;
}

}  // namespace strata::tools
