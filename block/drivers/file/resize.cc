// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/file/resize.h"

#include <algorithm>
#include <cstring>

#include "block/base/aligned_buffer.h"
#include "block/base/error.h"
#include "block/base/math.h"

namespace strata {
namespace {

constexpr size_t kZeroBufferSize = 1 << 20;
constexpr size_t kSectorSize = 512;
constexpr size_t kFirstBlockSize = 4096;

void check(Status status, const char* text) {
  if (!status.ok()) throw Error::from_errno(status.error_number(), "{}", text);
}

void resize_device(uint64_t current, uint64_t size, const TruncateOptions& options) {
  if (options.preallocation != qapi::PreallocMode::off)
    throw Error("Preallocation mode '{}' unsupported for this non-regular file",
                qapi::to_string(options.preallocation));
  if (options.exact && size != current) throw Error("Cannot resize device files");
  if (size > current) throw Error("Cannot grow device files");
}

Task<Status> write_zeroes(Disk& disk, uint64_t offset, uint64_t end) {
  uint32_t alignment = disk.geometry().request_alignment;
  AlignedBuffer zeroes(kZeroBufferSize);
  if (!zeroes) co_return Status::error(ENOMEM);
  std::memset(zeroes.data(), 0, zeroes.size());
  // The rest of a block that holds the old end reads as zeroes already.
  for (offset = align_up(offset, alignment); offset < end;) {
    uint64_t piece = std::min<uint64_t>(zeroes.size(), align_up(end - offset, alignment));
    Status status = co_await disk.write(offset, IoVector::buffer(zeroes.data(), piece));
    if (!status.ok()) co_return status;
    offset += piece;
  }
  co_return Status();
}

// The first block of a new file is written, so that its alignment can be found out by reading it.
Task<Status> write_first_block(Disk& disk, uint64_t size) {
  size_t bytes = size < kFirstBlockSize ? kSectorSize : kFirstBlockSize;
  AlignedBuffer zeroes(bytes);
  if (!zeroes) co_return Status::error(ENOMEM);
  std::memset(zeroes.data(), 0, bytes);
  Status status = co_await disk.write(0, IoVector::buffer(zeroes.data(), bytes));
  if (status.ok() && size < bytes) status = co_await disk.truncate(size);
  co_return status;
}

// Takes the old size back where it fails.
Task<void> preallocate(Disk& disk, uint64_t current, uint64_t size, qapi::PreallocMode mode) {
  Status status;
  const char* text = "Could not preallocate new data";
  if (mode == qapi::PreallocMode::falloc) {
    status = co_await disk.change_space(SpaceChange::allocate, {current, size - current});
    if (status.ok() && current == 0) std::ignore = co_await write_first_block(disk, size);
  } else {
    text = "Could not resize file";
    status = co_await disk.truncate(size);
    if (status.ok()) {
      text = "Could not write zeros for preallocation";
      status = co_await write_zeroes(disk, current, size);
      // The last block may have gone beyond.
      if (status.ok()) status = co_await disk.truncate(size);
    }
    if (status.ok()) {
      text = "Could not flush file to disk";
      status = co_await disk.flush();
    }
  }
  if (status.ok()) co_return;
  std::ignore = co_await disk.truncate(current);
  check(status, text);
}

}  // namespace

Task<void> resize_disk(Disk& disk, uint64_t size, TruncateOptions options) {
  Result<uint64_t> current = co_await disk.size();
  check(current.status(), "Could not resize file");
  if (disk.geometry().is_block_device) co_return resize_device(*current, size, options);
  switch (options.preallocation) {
    case qapi::PreallocMode::off:
      check(co_await disk.truncate(size), "Could not resize file");
      // Only a help: where it cannot be done, the alignment is guessed.
      if (*current == 0 && size != 0) std::ignore = co_await write_first_block(disk, size);
      co_return;
    case qapi::PreallocMode::falloc:
    case qapi::PreallocMode::full:
      break;
    default:
      if (size < *current) break;
      throw Error("Unsupported preallocation mode: {}", qapi::to_string(options.preallocation));
  }
  if (size < *current) throw Error("Cannot use preallocation for shrinking files");
  if (size > *current) co_await preallocate(disk, *current, size, options.preallocation);
}

}  // namespace strata
