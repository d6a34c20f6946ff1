// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/fuse/file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "block/aio/aio_context.h"
#include "block/aio/run_in.h"
#include "block/base/error.h"
#include "block/base/math.h"
#include "block/export/fuse/protocol.h"
#include "block/graph/driver.h"

namespace strata::fuse_export {
namespace {

constexpr uint32_t kSector = 512;
// What programs take as a good size for their buffers, and the unit of statfs().
constexpr uint32_t kBlock = 4096;
// Zeroes are written in pieces, so that a huge request leaves room for others.
constexpr uint64_t kMostZeroes = uint64_t{1} << 30;
// Lookups of a seek before everybody else in the context has a turn.
constexpr int kMostLookups = 256;

int64_t now_ns() noexcept {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// A failure that has no number is that of a driver which cannot do what was asked for.
int errno_of(const Error& error) noexcept {
  return error.error_number() != 0 ? error.error_number() : EOPNOTSUPP;
}

// Beyond the largest file there can be.
bool is_too_far(uint64_t offset, uint64_t bytes) noexcept {
  return offset > kMaxLength || bytes > kMaxLength - offset;
}

}  // namespace

ExportedFile::ExportedFile(MainLoop& loop, Backend& backend, FileTraits traits) noexcept
    : loop_(loop),
      backend_(backend),
      traits_(traits),
      mode_(S_IFREG | S_IRUSR | (traits.writable ? S_IWUSR : 0)),
      uid_(::getuid()),
      gid_(::getgid()),
      made_(now_ns()),
      modified_(made_),
      changed_(made_),
      writes_seen_(backend.node_writes()) {}

uint64_t ExportedFile::readable(uint64_t offset, uint64_t bytes) const noexcept {
  uint64_t length = backend_.length();
  return offset < length ? std::min(bytes, length - offset) : 0;
}

Task<Result<uint64_t>> ExportedFile::write(uint64_t offset, IoVector from) {
  if (!traits_.writable) co_return Status::error(EACCES);
  uint64_t bytes = from.size();
  if (is_too_far(offset, bytes)) co_return Status::error(traits_.growable ? EFBIG : EIO);
  uint64_t length = backend_.length();
  if (offset + bytes > length) {
    if (traits_.growable) {
      Status grown = co_await resize(offset + bytes, Grow::yes, qapi::PreallocMode::off);
      if (!grown) co_return grown;
    } else {
      if (offset >= length) co_return Status::error(EIO);
      bytes = length - offset;
    }
  }
  Status status = co_await backend_.pwritev(offset, from.slice(0, bytes));
  if (!status) co_return status;
  co_return bytes;
}

// Graph and permissions are the main loop's.
Task<Status> ExportedFile::resize(uint64_t size, Grow grow, qapi::PreallocMode preallocation) {
  if (size > kMaxLength) return Task<Status>::ready(Status::error(EFBIG));
  return run_in(loop_.context(), resize_in_main_loop(size, grow, preallocation));
}

Task<Status> ExportedFile::resize_in_main_loop(uint64_t size, Grow grow,
                                               qapi::PreallocMode preallocation) {
  Mutex::Lock lock = co_await size_mutex_.lock();
  uint64_t length = backend_.length();
  if (size == length || (grow == Grow::yes && size < length)) co_return Status();
  Permissions held = backend_.permissions();
  if (!may_resize()) co_return Status::error(EPERM);
  Status status;
  resizing_ = true;
  try {
    co_await backend_.truncate(size, {.exact = true, .preallocation = preallocation});
  } catch (const Error& error) {
    status = Status::error(errno_of(error));
  }
  resizing_ = false;
  if (!(backend_.permissions() == held)) backend_.set_permissions(loop_, held);
  co_return status;
}

// Takes the permission, which a file that does not grow has for the moment only.
bool ExportedFile::may_resize() {
  Permissions wider = backend_.permissions();
  if (wider.needed.has(Permission::resize)) return true;
  wider.needed |= Permission::resize;
  try {
    backend_.set_permissions(loop_, wider);
    return true;
  } catch (const Error&) {
    return false;
  }
}

Task<Status> ExportedFile::allocate(uint32_t mode, uint64_t offset, uint64_t bytes) {
  if (!traits_.writable) co_return Status::error(EACCES);
  constexpr uint32_t kKnown = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
  bool keep_size = (mode & FALLOC_FL_KEEP_SIZE) != 0;
  bool punch = (mode & FALLOC_FL_PUNCH_HOLE) != 0;
  bool zeroes = (mode & FALLOC_FL_ZERO_RANGE) != 0;
  if ((mode & ~kKnown) != 0 || (punch && zeroes)) co_return Status::error(EOPNOTSUPP);
  uint64_t length = backend_.length();
  if (!punch && !zeroes) {
    // What is inside the node's length has its space or not, which is not ours to say.
    if (keep_size || offset < length) co_return Status::error(EOPNOTSUPP);
    if (is_too_far(offset, bytes)) co_return Status::error(EFBIG);
    co_return co_await append_space(offset, offset + bytes);
  }
  if (zeroes && !keep_size) {
    if (is_too_far(offset, bytes)) co_return Status::error(EFBIG);
    Status grown = co_await resize(offset + bytes, Grow::yes, qapi::PreallocMode::off);
    if (!grown) co_return grown;
    length = backend_.length();
  }
  if (offset > length) co_return Status::error(EIO);
  bytes = std::min(bytes, length - offset);
  co_return co_await zero(offset, bytes, punch ? WriteFlags(WriteFlag::may_unmap) : WriteFlags());
}

// Only what was asked for takes space; before it comes a hole.
Task<Status> ExportedFile::append_space(uint64_t offset, uint64_t end) {
  Status status = co_await resize(offset, Grow::yes, qapi::PreallocMode::off);
  if (status.ok()) status = co_await resize(end, Grow::yes, qapi::PreallocMode::falloc);
  co_return status;
}

Task<Status> ExportedFile::zero(uint64_t offset, uint64_t bytes, WriteFlags flags) {
  while (bytes != 0) {
    uint64_t piece = std::min(bytes, kMostZeroes);
    Status status = co_await backend_.pwrite_zeroes(offset, piece, flags);
    if (!status) co_return status;
    offset += piece;
    bytes -= piece;
  }
  co_return Status();
}

Task<Result<uint64_t>> ExportedFile::seek(uint64_t offset, uint32_t whence) {
  if (whence != SEEK_DATA && whence != SEEK_HOLE) co_return Status::error(EINVAL);
  for (int lookups = 1;; ++lookups) {
    uint64_t length = backend_.length();
    if (offset >= length) break;
    auto found = co_await backend_.block_status(offset, length - offset);
    if (!found) co_return found.status();
    StatusFlags flags = found->status.flags;
    bool data = flags.has(StatusFlag::data) && !flags.has(StatusFlag::zero);
    if (data == (whence == SEEK_DATA)) co_return offset;
    if (found->status.bytes == 0) break;
    offset += found->status.bytes;
    // The hole that every file has behind its end.
    if (whence == SEEK_HOLE && offset >= backend_.length()) co_return offset;
    if (lookups % kMostLookups == 0) co_await AioContext::current()->yield();
  }
  co_return Status::error(ENXIO);
}

Status ExportedFile::check_owner_and_mode(const fuse_setattr_in& wanted) const noexcept {
  constexpr uint32_t kImplied = FATTR_FH | FATTR_LOCKOWNER | FATTR_KILL_SUIDGID;
  uint32_t possible = kImplied | FATTR_SIZE | FATTR_MODE;
  // The owner who cannot reach it any more could not take that back.
  if (traits_.allow_other) possible |= FATTR_UID | FATTR_GID;
  if ((wanted.valid & ~possible) != 0) return Status::error(EOPNOTSUPP);
  if ((wanted.valid & FATTR_MODE) == 0) return Status();
  if (!traits_.writable && (wanted.mode & (S_IWUSR | S_IWGRP | S_IWOTH)) != 0)
    return Status::error(EROFS);
  if (!traits_.allow_other && (wanted.mode & (S_IRWXG | S_IRWXO)) != 0) return Status::error(EPERM);
  return Status();
}

Task<Status> ExportedFile::change(fuse_setattr_in wanted) {
  Status status = check_owner_and_mode(wanted);
  if (!status) co_return status;
  if ((wanted.valid & FATTR_SIZE) != 0) {
    if (!traits_.writable) co_return Status::error(EACCES);
    status = co_await resize(wanted.size, Grow::no, qapi::PreallocMode::off);
    if (!status) co_return status;
  }
  if ((wanted.valid & FATTR_MODE) != 0) mode_ = S_IFREG | (wanted.mode & 07777);
  if ((wanted.valid & FATTR_UID) != 0) uid_ = wanted.uid;
  if ((wanted.valid & FATTR_GID) != 0) gid_ = wanted.gid;
  changed_ = now_ns();
  co_return Status();
}

void ExportedFile::note_changes() noexcept {
  uint64_t writes = backend_.node_writes();
  if (writes_seen_.exchange(writes) == writes) return;
  int64_t now = now_ns();
  modified_ = now;
  changed_ = now;
}

fuse_attr ExportedFile::attributes() noexcept {
  note_changes();
  auto set_time = [](int64_t time, uint64_t& seconds, uint32_t& ns) {
    constexpr int64_t kSecond = 1'000'000'000;
    seconds = static_cast<uint64_t>(time / kSecond);
    ns = static_cast<uint32_t>(time % kSecond);
  };
  uint64_t length = backend_.length();
  fuse_attr attr{};
  attr.ino = kFileNode;
  attr.size = length;
  // Who sees a file without blocks may think that it has no data.
  attr.blocks = backend_.allocated_size().value_or(0) / kSector;
  if (attr.blocks == 0) attr.blocks = length / kSector;
  set_time(made_, attr.atime, attr.atimensec);
  set_time(modified_, attr.mtime, attr.mtimensec);
  set_time(changed_, attr.ctime, attr.ctimensec);
  attr.mode = mode_;
  attr.nlink = 1;
  attr.uid = uid_;
  attr.gid = gid_;
  attr.blksize = kBlock;
  return attr;
}

fuse_kstatfs ExportedFile::space() noexcept {
  uint64_t length = backend_.length();
  uint64_t allocated = std::min(backend_.allocated_size().value_or(length), length);
  fuse_kstatfs space{};
  space.bsize = kBlock;
  space.frsize = kBlock;
  space.blocks = length / kBlock;
  space.bfree = (length - allocated) / kBlock;
  space.bavail = space.bfree;
  space.files = 1;
  space.namelen = 255;
  return space;
}

// Whoever asks for direct I/O gets it, with writes in parallel; others share the page cache, which
// the kernel empties when the file is opened or found modified.
uint32_t ExportedFile::open_flags(uint32_t flags) noexcept {
  return (flags & O_DIRECT) != 0 ? FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES : 0;
}

}  // namespace strata::fuse_export
