// SPDX-License-Identifier: GPL-2.0-or-later
//
// The one file of an export, as its clients see it: what each operation does to the node.
#pragma once

#include <linux/fuse.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>

#include "block/aio/main_loop.h"
#include "block/coro/mutex.h"
#include "block/io/backend.h"

namespace strata::fuse_export {

struct FileTraits {
  bool writable = false;
  bool growable = false;     // writes beyond the end make it larger; `backend` may resize then
  bool allow_other = false;  // other users can reach it
};

// Any context, but for its constructor and destructor. The Backend outlives it.
class ExportedFile {
 public:
  ExportedFile(MainLoop& loop, Backend& backend, FileTraits traits) noexcept;

  // How many of these bytes there are to be read.
  uint64_t readable(uint64_t offset, uint64_t bytes) const noexcept;
  // They lie inside readable().
  Task<Status> read(uint64_t offset, IoVector into) { return backend_.preadv(offset, into); }
  // How many bytes were written: fewer where the file ends and may not grow. EACCES, EIO (begins at
  // or behind the end), EFBIG.
  Task<Result<uint64_t>> write(uint64_t offset, IoVector from);
  Task<Status> flush() { return backend_.flush(); }

  // As fallocate(2): zeroes or holes inside the file, or new space behind its end, which makes it
  // larger whether or not writes may. EOPNOTSUPP for the rest.
  Task<Status> allocate(uint32_t mode, uint64_t offset, uint64_t bytes);
  // As lseek(2) for SEEK_DATA and SEEK_HOLE.
  Task<Result<uint64_t>> seek(uint64_t offset, uint32_t whence);
  // Size, mode and owner, as far as they may be set.
  Task<Status> change(fuse_setattr_in wanted);

  fuse_attr attributes() noexcept;
  fuse_kstatfs space() noexcept;
  // What an OPEN with these flags of open(2) is answered.
  static uint32_t open_flags(uint32_t flags) noexcept;

  // Whether it is this file that changes the node's length just now, so that its clients know.
  bool is_resizing() const noexcept { return resizing_.load(std::memory_order_relaxed); }

 private:
  enum class Grow : bool { no, yes };

  // Makes the node `size` bytes long; with Grow::yes only if it is shorter.
  Task<Status> resize(uint64_t size, Grow grow, qapi::PreallocMode preallocation);
  Task<Status> resize_in_main_loop(uint64_t size, Grow grow, qapi::PreallocMode preallocation);
  bool may_resize();
  Task<Status> append_space(uint64_t offset, uint64_t end);
  Task<Status> zero(uint64_t offset, uint64_t bytes, WriteFlags flags);
  Status check_owner_and_mode(const fuse_setattr_in& wanted) const noexcept;
  void note_changes() noexcept;

  MainLoop& loop_;
  Backend& backend_;
  const FileTraits traits_;
  Mutex size_mutex_;  // held by whoever changes the length
  std::atomic<bool> resizing_{false};

  std::atomic<mode_t> mode_;
  std::atomic<uid_t> uid_;
  std::atomic<gid_t> gid_;
  // Times are ns since 1970. The file was modified when writes to its node are found to have been
  // made, through whichever door.
  const int64_t made_;
  std::atomic<int64_t> modified_;
  std::atomic<int64_t> changed_;
  std::atomic<uint64_t> writes_seen_;
};

}  // namespace strata::fuse_export
