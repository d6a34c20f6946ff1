// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/virtio/mapped_file.h"

#include <linux/magic.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>

#include "block/base/error.h"
#include "block/base/math.h"

namespace strata::virtio {
namespace {

using Guard = MappedFile::Guard;

// Signal handlers belong to the process, and so does what this one looks at: a list that only
// grows, whose entries are used again.
std::atomic<Guard*> all_guards{nullptr};
struct sigaction previous_action;

bool replace_mapping(uintptr_t address) noexcept {
  for (Guard* guard = all_guards.load(std::memory_order_acquire); guard != nullptr;
       guard = guard->next) {
    uintptr_t begin = guard->begin.load(std::memory_order_acquire);
    uintptr_t end = guard->end.load(std::memory_order_acquire);
    if (begin == 0 || address < begin || address >= end) continue;
    guard->damaged.store(true, std::memory_order_relaxed);
    void* zeroes = ::mmap(reinterpret_cast<void*>(begin), end - begin, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    return zeroes != MAP_FAILED;
  }
  return false;
}

void handle_bus_error(int number, siginfo_t* info, void* context) {
  int saved = errno;
  bool ours = replace_mapping(reinterpret_cast<uintptr_t>(info->si_addr));
  errno = saved;
  if (ours) return;
  if ((previous_action.sa_flags & SA_SIGINFO) != 0 && previous_action.sa_sigaction != nullptr)
    return previous_action.sa_sigaction(number, info, context);
  // The access is repeated and ends the process, as it would have without us.
  ::sigaction(SIGBUS, &previous_action, nullptr);
}

void install_handler() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action{};
    action.sa_sigaction = handle_bus_error;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    ::sigaction(SIGBUS, &action, &previous_action);
  });
}

Guard* take_guard() {
  for (Guard* guard = all_guards.load(std::memory_order_acquire); guard != nullptr;
       guard = guard->next) {
    bool expected = false;
    if (guard->taken.compare_exchange_strong(expected, true)) return guard;
  }
  auto* fresh = new Guard;
  fresh->taken.store(true, std::memory_order_relaxed);
  fresh->next = all_guards.load(std::memory_order_relaxed);
  while (!all_guards.compare_exchange_weak(fresh->next, fresh)) {
  }
  return fresh;
}

// Pages of a huge-page file system are larger, and a mapping begins at one.
uint64_t check_file(int fd, uint64_t end, bool kernels) {
  struct stat status;
  if (::fstat(fd, &status) != 0) throw Error::from_errno(errno, "Cannot map guest memory");
  struct statfs system;
  if (::fstatfs(fd, &system) != 0) throw Error::from_errno(errno, "Cannot map guest memory");
  // Anonymous inodes have no type.
  bool anonymous = kernels && (status.st_mode & S_IFMT) == 0;
  if (!S_ISREG(status.st_mode) && !S_ISCHR(status.st_mode) && !anonymous)
    throw Error("Cannot map guest memory: the descriptor is no memory");
  // A file system in user space could keep a reader waiting for ever.
  if (system.f_type == FUSE_SUPER_MAGIC)
    throw Error("Cannot map guest memory: the descriptor is a file of FUSE");
  if (S_ISREG(status.st_mode) && end > static_cast<uint64_t>(status.st_size))
    throw Error("Cannot map guest memory: the file ends at {}, the region at {}", status.st_size,
                end);
  auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  if (system.f_type == HUGETLBFS_MAGIC) page = std::max(page, uint64_t(system.f_bsize));
  return page;
}

}  // namespace

MappedFile::MappedFile(int fd, uint64_t offset, uint64_t size, Kind kind) : size_(size) {
  auto end = checked_add(offset, size);
  if (size == 0 || !end || *end > uint64_t{INT64_MAX} / 2)
    throw Error("Cannot map guest memory: bad offset or size");
  uint64_t page = check_file(fd, *end, kind.kernels);
  uint64_t begin = align_down(offset, page);
  mapped_ = align_up(*end - begin, page);
  install_handler();
  guard_ = take_guard();
  guard_->damaged.store(false, std::memory_order_relaxed);
  int protection = kind.writable ? PROT_READ | PROT_WRITE : PROT_READ;
  mapping_ = ::mmap(nullptr, mapped_, protection, MAP_SHARED | MAP_NORESERVE, fd,
                    static_cast<off_t>(begin));
  if (mapping_ == MAP_FAILED) {
    int error = errno;
    guard_->taken.store(false);
    throw Error::from_errno(error, "Cannot map guest memory");
  }
  ::madvise(mapping_, mapped_, MADV_DONTDUMP);
  data_ = static_cast<std::byte*>(mapping_) + (offset - begin);
  guard_->end.store(reinterpret_cast<uintptr_t>(mapping_) + mapped_, std::memory_order_release);
  guard_->begin.store(reinterpret_cast<uintptr_t>(mapping_), std::memory_order_release);
}

MappedFile::~MappedFile() {
  guard_->begin.store(0, std::memory_order_release);
  guard_->end.store(0, std::memory_order_release);
  ::munmap(mapping_, mapped_);
  guard_->taken.store(false, std::memory_order_release);
}

}  // namespace strata::virtio
