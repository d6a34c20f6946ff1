// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/host_disk.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>

#include "block/aio/aio_context.h"
#include "block/aio/host_request.h"
#include "block/aio/linux_aio_engine.h"
#include "block/aio/request_clock.h"
#include "block/aio/thread_pool.h"
#include "block/aio/uring_engine.h"

namespace strata {
namespace {

constexpr uint32_t kMostReadsToPass = 64;
constexpr uint32_t kNever = UINT32_MAX;

ThreadPool& pool() {
  return AioContext::current()->service<ThreadPool>();
}

// The context of this thread wants no others: it waits for the page cache itself.
bool waits_itself() noexcept {
  return AioContext::current()->thread_pool_limits().max == 0;
}

Status status_of(int result) noexcept {
  return Status::error(result == 0 ? 0 : errno);
}

// Such file systems know no RWF_NOWAIT, and need none.
bool lies_in_memory(int fd) noexcept {
  struct statfs system{};
  if (::fstatfs(fd, &system) != 0) return false;
  return system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC;
}

}  // namespace

HostDisk::HostDisk(UniqueFd fd, const DiskGeometry& geometry, Options options) noexcept
    : fd_(std::move(fd)),
      geometry_(geometry),
      options_(options),
      is_memory_(lies_in_memory(fd_.get())) {}

HostDisk::~HostDisk() {
  for (const auto& files : held_by_) files->drop(fd_.get());
}

// The descriptor keeps its number, so what is under way or queued need not know.
void HostDisk::replace_descriptor(UniqueFd fd) noexcept {
  while (::dup3(fd.get(), fd_.get(), O_CLOEXEC) < 0) assert(errno == EINTR || errno == EBUSY);
  std::lock_guard lock(mutex_);
  for (const auto& files : held_by_) files->refresh(fd_.get());
}

void HostDisk::held_by(std::shared_ptr<UringFiles> files) {
  std::lock_guard lock(mutex_);
  held_by_.push_back(std::move(files));
}

int64_t HostDisk::flushed(int64_t answer) noexcept {
  if (options_.direct || geometry_.is_block_device) return answer;
  if (answer < 0) {
    int none = 0;
    write_back_error_.compare_exchange_strong(none, static_cast<int>(-answer));
  }
  return -write_back_error_.load(std::memory_order_relaxed);
}

// Does what takes no longer than to copy it, as most writes to the page cache do, too. True if that
// settles the request; otherwise `done` bytes were read.
bool HostDisk::try_at_once(DiskRequest& request, size_t& done) noexcept {
  if (options_.direct) return false;
  bool waits = waits_itself();
  if (request.data.size() > kLargestInline && !waits) return false;
  bool is_cached_write = request.op == DiskRequest::Op::write && !request.fua;
  if (is_memory_ || (waits && is_cached_write)) {
    HostRequest::begin(request, 0).transfer_all();
    RequestClock::expire();
    return true;
  }
  return request.op == DiskRequest::Op::read && read_cached(request, done);
}

// Reads what the page cache has. True if that settles the request; otherwise `done` bytes were
// there. Where the cache does not have what is asked for, fewer and fewer reads are tried, and all
// again after one hit.
bool HostDisk::read_cached(DiskRequest& request, size_t& done) noexcept {
  uint32_t pass = reads_to_pass_.load(std::memory_order_relaxed);
  if (pass != 0) {
    if (pass != kNever) reads_to_pass_.store(pass - 1, std::memory_order_relaxed);
    return false;
  }
  std::array<iovec, 64> space;
  auto array = request.data.as_array();
  if (array.empty() || array.size() > space.size())
    array = {space.data(), request.data.export_to(space)};
  ssize_t got = ::preadv2(fd_.get(), array.data(), static_cast<int>(array.size()),
                          static_cast<off_t>(request.offset), RWF_NOWAIT);
  RequestClock::expire();
  if (got > 0) {
    if (next_pass_.load(std::memory_order_relaxed) != 0)
      next_pass_.store(0, std::memory_order_relaxed);
    done = static_cast<size_t>(got);
    request.result = got;
    return done == request.data.size();
  }
  if (got == 0) {
    request.result = 0;
    return true;
  }
  if (errno == EAGAIN) {
    uint32_t next = next_pass_.load(std::memory_order_relaxed);
    reads_to_pass_.store(next, std::memory_order_relaxed);
    next_pass_.store(std::min(2 * next + 1, kMostReadsToPass), std::memory_order_relaxed);
  } else if (errno == EOPNOTSUPP) {
    reads_to_pass_.store(kNever, std::memory_order_relaxed);
  }
  return false;  // what other errors mean, the engine will find out
}

bool HostDisk::start(DiskRequest& request) noexcept {
  if (request.op != DiskRequest::Op::flush) {
    size_t size = request.data.size();
    if (size == 0 || size > kMaxRequest || request.offset > INT64_MAX - size) {
      request.result = size == 0 ? 0 : -EINVAL;
      return false;
    }
  }
  size_t done = 0;
  if (try_at_once(request, done)) return false;
  AioContext& context = *AioContext::current();
  HostRequest& host = HostRequest::begin(request, done);
  // Copying from or to the page cache is work for a processor. The kernel's own workers would do it
  // one request after the other, since none of them waits.
  if (!options_.direct && request.data.size() > kLargestInline && !waits_itself()) {
    context.service<ThreadPool>().submit(host);
    return true;
  }
  if (options_.engine == DiskEngine::io_uring) {
    auto& engine = context.service<UringEngine>();
    if (engine.usable()) return engine.start(host), true;
  } else if (options_.engine == DiskEngine::native) {
    auto& engine = context.service<LinuxAioEngine>();
    if (engine.usable()) return engine.start(host), true;
  }
  context.service<ThreadPool>().submit(host);
  return true;
}

Task<Result<uint64_t>> HostDisk::size() {
  using Answer = Result<uint64_t>;
  struct stat info{};
  if (::fstat(fd_.get(), &info) != 0) return Task<Answer>::ready(Answer::error(errno));
  if (!S_ISBLK(info.st_mode)) return Task<Answer>::ready(static_cast<uint64_t>(info.st_size));
  uint64_t bytes = 0;
  if (::ioctl(fd_.get(), BLKGETSIZE64, &bytes) != 0)
    return Task<Answer>::ready(Answer::error(errno));
  return Task<Answer>::ready(bytes);
}

Task<Status> HostDisk::truncate(uint64_t size) {
  if (geometry_.is_block_device) co_return Status::error(ENOTSUP);
  if (size > INT64_MAX) co_return Status::error(EFBIG);
  int fd = fd_.get();
  co_return co_await pool().run(
      [fd, size] { return status_of(::ftruncate(fd, static_cast<off_t>(size))); });
}

Task<Status> HostDisk::change_space(SpaceChange change, ByteRange range) {
  if (range.empty()) co_return Status();
  if (range.end() > INT64_MAX) co_return Status::error(EINVAL);
  int fd = fd_.get();
  auto offset = static_cast<off_t>(range.offset);
  auto bytes = static_cast<off_t>(range.bytes);
  int mode = 0;
  switch (change) {
    case SpaceChange::allocate:
      break;
    case SpaceChange::zero:
      mode = FALLOC_FL_ZERO_RANGE;
      break;
    case SpaceChange::discard:
      if (geometry_.is_block_device) {
        co_return co_await pool().run([fd, range] {
          uint64_t words[2] = {range.offset, range.bytes};
          return status_of(::ioctl(fd, BLKDISCARD, words));
        });
      }
      [[fallthrough]];
    case SpaceChange::punch_hole:
      mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
      break;
  }
  co_return co_await pool().run([=] {
    int result = 0;
    do {
      result = ::fallocate(fd, mode, offset, bytes);
    } while (result != 0 && errno == EINTR);
    return status_of(result);
  });
}

// lseek() moves the descriptor's position, which nobody here uses. It is quick on file systems of
// this host, so no thread is asked.
Task<Result<DiskExtent>> HostDisk::extent_at(uint64_t offset, uint64_t bytes) {
  Result<uint64_t> disk_size = co_await size();
  if (!disk_size) co_return disk_size.status();
  if (offset >= *disk_size) co_return DiskExtent{};
  bytes = std::min(bytes, *disk_size - offset);
  if (geometry_.is_block_device) co_return DiskExtent{bytes, false};
  auto at = static_cast<off_t>(offset);
  auto until = [&](off_t end) { return std::min(bytes, static_cast<uint64_t>(end) - offset); };
  off_t data = ::lseek(fd_.get(), at, SEEK_DATA);
  if (data < 0) {
    // ENXIO: nothing but a hole from here on (or, meanwhile, the end).
    if (errno == ENXIO) co_return DiskExtent{bytes, true};
    co_return DiskExtent{bytes, false};
  }
  if (data > at) co_return DiskExtent{until(data), true};
  off_t hole = ::lseek(fd_.get(), at, SEEK_HOLE);
  if (hole <= at) co_return DiskExtent{bytes, false};
  co_return DiskExtent{until(hole), false};
}

Task<Result<uint64_t>> HostDisk::copy_range(uint64_t offset, Disk& to, uint64_t to_offset,
                                            uint64_t bytes) {
  using Answer = Result<uint64_t>;
  auto* target = dynamic_cast<HostDisk*>(&to);
  if (target == nullptr) co_return Answer::error(EXDEV);
  int from_fd = fd_.get();
  int to_fd = target->fd();
  co_return co_await pool().run([=]() -> Answer {
    auto from_at = static_cast<loff_t>(offset);
    auto to_at = static_cast<loff_t>(to_offset);
    ssize_t copied = ::copy_file_range(from_fd, &from_at, to_fd, &to_at,
                                       std::min<uint64_t>(bytes, kMaxRequest), 0);
    if (copied >= 0) return static_cast<uint64_t>(copied);
    return Answer::error(errno == ENOSYS || errno == EINVAL ? EOPNOTSUPP : errno);
  });
}

Task<Status> HostDisk::drop_cache() {
  int fd = fd_.get();
  co_return co_await pool().run(
      [fd] { return Status::error(::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)); });
}

}  // namespace strata
