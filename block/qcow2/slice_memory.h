// SPDX-License-Identifier: GPL-2.0-or-later
//
// The memory of a cache's slices: address space for all of them, taken from the host as it is used
// and given back when asked to. Its addresses stay readable all the while.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace strata::qcow2 {

class SliceMemory {
 public:
  SliceMemory() noexcept = default;
  ~SliceMemory() { release(); }
  SliceMemory(const SliceMemory&) = delete;
  SliceMemory& operator=(const SliceMemory&) = delete;

  void swap(SliceMemory& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(bytes_, other.bytes_);
    std::swap(slice_words_, other.slice_words_);
  }

  // Throws std::bad_alloc.
  void allocate(size_t slice_bytes, size_t slices);
  uint64_t* words(size_t slice) const noexcept { return base_ + slice * slice_words_; }
  // The slice's words may read as zeroes from now on.
  void give_back(size_t slice) noexcept;

 private:
  void release() noexcept;

  uint64_t* base_ = nullptr;
  size_t bytes_ = 0;
  size_t slice_words_ = 0;
};

inline uint64_t load_word(const uint64_t& word) noexcept {
  return std::atomic_ref(const_cast<uint64_t&>(word)).load(std::memory_order_relaxed);
}
inline void store_word(uint64_t& word, uint64_t value) noexcept {
  std::atomic_ref(word).store(value, std::memory_order_relaxed);
}

}  // namespace strata::qcow2
