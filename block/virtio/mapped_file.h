// SPDX-License-Identifier: GPL-2.0-or-later
//
// Memory shared with a process that is not trusted.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace strata::virtio {

// A part of a file, mapped to be read and written. The other side may shorten the file at any time,
// and an access to what is gone raises SIGBUS, wherever in the program it happens. The handler of
// this room then puts zeroes in the place of the whole mapping, and the access goes on: whoever
// uses the mapping looks at is_damaged() now and then, and parts with the other side. The kernel's
// own accesses fail with EFAULT. A mapping outlives every access to it.
class MappedFile {
 public:
  // What may be mapped, and how.
  struct Kind {
    bool writable = true;
    bool kernels = false;  // a file without a name that the kernel made
  };

  // The descriptor is not needed afterwards. Throws Error: it is no memory (a regular file or a
  // device that can be mapped), it is shorter than offset + size, or it cannot be mapped.
  // `offset` need not be aligned; `size` is not 0.
  MappedFile(int fd, uint64_t offset, uint64_t size) : MappedFile(fd, offset, size, Kind{}) {}
  MappedFile(int fd, uint64_t offset, uint64_t size, Kind kind);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::byte* data() const noexcept { return data_; }
  uint64_t size() const noexcept { return size_; }
  bool is_damaged() const noexcept { return guard_->damaged.load(std::memory_order_relaxed); }

  // What the signal handler knows of a mapping.
  struct Guard {
    std::atomic<bool> taken{false};
    std::atomic<uintptr_t> begin{0};
    std::atomic<uintptr_t> end{0};
    std::atomic<bool> damaged{false};
    Guard* next = nullptr;
  };

 private:
  void* mapping_ = nullptr;
  size_t mapped_ = 0;
  std::byte* data_ = nullptr;
  uint64_t size_ = 0;
  Guard* guard_ = nullptr;
};

}  // namespace strata::virtio
