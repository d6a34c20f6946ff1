// SPDX-License-Identifier: GPL-2.0-or-later
//
// The seam to the kernel's disks. A HostDisk (host_disk.h) is a file or block device of this host;
// a simulated disk keeps everything in memory and fails as it is told.
//
//   Result<size_t> got = co_await disk.read(offset, into);      // Status for write() and flush()
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "block/base/io_vector.h"
#include "block/base/math.h"
#include "block/base/result.h"
#include "block/coro/executor.h"
#include "block/coro/task.h"

namespace strata {

class Disk;

// One read, write or flush. It lives in its caller's frame until it has completed.
struct DiskRequest : Resumption {
  enum class Op : uint8_t { read, write, flush };

  DiskRequest(Disk& target, Op operation, uint64_t first, IoVector memory, bool durable) noexcept
      : disk(target), op(operation), fua(durable), offset(first), data(memory) {}
  DiskRequest(const DiskRequest&) = delete;
  DiskRequest& operator=(const DiskRequest&) = delete;

  // For the disk: the answer is there. Resumes the caller in its own context; any thread.
  void complete_later(int64_t answer) noexcept {
    result = answer;
    resume_later();
  }

  Disk& disk;
  Op op;
  bool fua;         // a write: as if a flush of just these bytes followed it
  uint64_t offset;  // in bytes
  IoVector data;
  int64_t result = 0;  // bytes transferred, or -errno

  // The disk's own, from start() to completion.
  alignas(std::max_align_t) std::byte scratch[64];
};

namespace detail {

template <class Answer>
struct [[nodiscard]] DiskAwaiter final : private DiskRequest {
  using DiskRequest::DiskRequest;
  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> caller) noexcept;
  Answer await_resume() const noexcept;
};

}  // namespace detail

// What the kernel demands and advises. Fixed while a disk is open.
struct DiskGeometry {
  // Offsets, lengths (but for the last bytes of a file) and memory of reads and writes must be
  // multiples of these.
  uint32_t request_alignment = 1;
  uint32_t memory_alignment = 1;
  // The most that a single request of the hardware carries; longer ones are split by the kernel.
  // 0: not known.
  uint64_t max_hardware_transfer = 0;
  uint32_t max_hardware_segments = 0;
  // Of a block device; of a file, those of its file system (a hint).
  uint32_t logical_block_size = 512;
  uint32_t physical_block_size = 512;
  // Discards are rounded inwards to this; 0: not known.
  uint32_t discard_granularity = 0;
  bool is_block_device = false;
};

// How the space of a byte range changes. EOPNOTSUPP where this disk cannot do it, so that the
// caller may try the next best.
enum class SpaceChange : uint8_t {
  // Makes room: bytes that had none get it and read as zeroes, the others keep their contents.
  // Beyond the end, the disk grows.
  allocate,
  // The range reads as zeroes and has room. Beyond the end, a file grows.
  zero,
  // The range reads as zeroes and keeps no more room than it must. Never grows.
  punch_hole,
  // The range's contents are of no interest any more. On a file, the same as punch_hole.
  discard,
};

// A run of bytes of the same kind.
struct DiskExtent {
  uint64_t bytes = 0;
  bool is_hole = false;  // reads as zeroes, has no room
};

// Offsets and sizes are in bytes. Every operation may start in any AioContext, several at once,
// and completes in the one in which it started; none is cancelled once started. Errors are errnos.
// Operations that overlap in time have no order among them but the one their callers make. A write
// is durable when a flush that began after it had completed has completed, or by itself with FUA.
class Disk {
 public:
  virtual ~Disk() = default;  // nothing is in flight; gives back the descriptor
  Disk(const Disk&) = delete;
  Disk& operator=(const Disk&) = delete;

  // The most bytes of one request; longer ones are EINVAL.
  static constexpr size_t kMaxRequest = std::numeric_limits<int32_t>::max();

  // The number of bytes read: less than asked for at the end of the disk only, where it may be 0.
  // `into` stays the caller's and must live until the end; beyond the bytes read it is untouched.
  auto read(uint64_t offset, IoVector into) noexcept {
    return detail::DiskAwaiter<Result<size_t>>(*this, DiskRequest::Op::read, offset, into, false);
  }
  // All or an error (of which some part may have been written). A file grows as needed; a block
  // device answers ENOSPC.
  auto write(uint64_t offset, IoVector from, bool fua = false) noexcept {
    return detail::DiskAwaiter<Status>(*this, DiskRequest::Op::write, offset, from, fua);
  }
  // What was written before is durable afterwards, the size included.
  auto flush() noexcept {
    return detail::DiskAwaiter<Status>(*this, DiskRequest::Op::flush, 0, IoVector(), false);
  }

  // Begins a request whose `executor` is set. True: it is under way, and its caller will be resumed
  // when `result` is set. False: `result` is set already, nobody will be resumed.
  virtual bool start(DiskRequest& request) noexcept = 0;

  virtual const DiskGeometry& geometry() const noexcept = 0;
  // As it is now: others may have changed it.
  virtual Task<Result<uint64_t>> size() = 0;
  // Grows (with a hole) or cuts a file. A block device answers ENOTSUP.
  virtual Task<Status> truncate(uint64_t size) = 0;
  virtual Task<Status> change_space(SpaceChange change, ByteRange range) = 0;
  // The run that starts at `offset`, at most `bytes` long and not beyond the end of the disk
  // (`bytes` 0 there). A disk that knows nothing about holes says data.
  virtual Task<Result<DiskExtent>> extent_at(uint64_t offset, uint64_t bytes) = 0;
  // Copies inside the host, `bytes` from `offset` to `to_offset` of `to`, and returns how many were
  // copied: at least one, or 0 at the end. EOPNOTSUPP, EXDEV: read and write instead.
  virtual Task<Result<uint64_t>> copy_range(uint64_t offset, Disk& to, uint64_t to_offset,
                                            uint64_t bytes) {
    return Task<Result<uint64_t>>::ready(Result<uint64_t>::error(EOPNOTSUPP));
  }
  // Forgets what the host caches of this disk, so that a change by another host is seen. Flushed
  // before by the caller.
  virtual Task<Status> drop_cache() { return Task<Status>::ready(Status()); }

 protected:
  Disk() noexcept = default;
};

template <class Answer>
bool detail::DiskAwaiter<Answer>::await_suspend(std::coroutine_handle<> caller) noexcept {
  suspend(caller);
  return disk.start(*this);
}

template <>
inline Result<size_t> detail::DiskAwaiter<Result<size_t>>::await_resume() const noexcept {
  if (result < 0) return Status::from_result(result);
  return static_cast<size_t>(result);
}

template <>
inline Status detail::DiskAwaiter<Status>::await_resume() const noexcept {
  return Status::from_result(result);
}

}  // namespace strata
