// SPDX-License-Identifier: GPL-2.0-or-later
//
// Aligned memory for the data of requests, reused from one to the next.
#pragma once

#include <array>
#include <cstddef>
#include <utility>

namespace strata {

class AioContext;

// One a context (AioContext::service<BufferPool>()), used in its thread only. Sizes are powers of
// two from 4 KiB to 32 MiB, aligned to 4 KiB; of what comes back, 16 MiB are kept.
class BufferPool {
 public:
  static constexpr size_t kSmallest = 4096;
  static constexpr size_t kLargest = size_t{32} << 20;
  static constexpr size_t kMostKept = size_t{16} << 20;

  // Memory that goes back to its pool. It must not outlive the pool's context.
  class Buffer {
   public:
    Buffer() noexcept = default;
    Buffer(Buffer&& other) noexcept
        : pool_(other.pool_), data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}
    Buffer& operator=(Buffer&& other) noexcept {
      std::swap(pool_, other.pool_);
      std::swap(data_, other.data_);
      std::swap(size_, other.size_);
      return *this;
    }
    ~Buffer() { reset(); }

    explicit operator bool() const noexcept { return data_ != nullptr; }
    std::byte* data() const noexcept { return data_; }
    // What there is room for, at least what was asked for.
    size_t size() const noexcept { return data_ != nullptr ? size_ : 0; }
    void reset() noexcept {
      if (data_ != nullptr) pool_->put(std::exchange(data_, nullptr), size_);
    }

   private:
    friend class BufferPool;
    Buffer(BufferPool& pool, std::byte* data, size_t size) noexcept
        : pool_(&pool), data_(data), size_(size) {}
    BufferPool* pool_ = nullptr;
    std::byte* data_ = nullptr;
    size_t size_ = 0;
  };

  explicit BufferPool(AioContext&) noexcept {}
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // `size` is at most kLargest. Empty where memory is short. Contents are undefined.
  Buffer get(size_t size) noexcept;
  // Bytes of free memory held.
  size_t kept() const noexcept { return kept_; }

 private:
  struct Free {
    Free* next;
  };
  static constexpr size_t kClasses = 14;

  void put(std::byte* data, size_t size) noexcept;

  std::array<Free*, kClasses> free_{};
  size_t kept_ = 0;
};

}  // namespace strata
