// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/slice_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <new>

namespace strata::qcow2 {

void SliceMemory::allocate(size_t slice_bytes, size_t slices) {
  release();
  size_t bytes = slice_bytes * slices;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  base_ = static_cast<uint64_t*>(memory);
  bytes_ = bytes;
  slice_words_ = slice_bytes / sizeof(uint64_t);
}

void SliceMemory::give_back(size_t slice) noexcept {
  static const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  size_t bytes = slice_words_ * sizeof(uint64_t);
  if (bytes % page == 0) (void)madvise(words(slice), bytes, MADV_DONTNEED);
}

void SliceMemory::release() noexcept {
  if (base_ != nullptr) munmap(base_, bytes_);
  base_ = nullptr;
}

}  // namespace strata::qcow2
