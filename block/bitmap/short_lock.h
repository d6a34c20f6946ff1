// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <array>
#include <atomic>
#include <mutex>
#include <thread>

#include "block/coro/executor.h"

namespace strata {

// A lock for moments: readers never suspend while they have it, so that a writer, who comes once in
// a while, spins until they are gone. A reader pays two atomic operations in a cache line of its
// executor.
class ShortLock {
 public:
  class [[nodiscard]] Reader {
   public:
    explicit Reader(ShortLock& lock) noexcept : count_(lock.enter()) {}
    ~Reader() { count_.fetch_sub(1, std::memory_order_seq_cst); }
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

   private:
    std::atomic<long>& count_;
  };

  class [[nodiscard]] Writer {
   public:
    explicit Writer(ShortLock& lock) : lock_(lock), one_writer_(lock.writers_) {
      lock_.closed_.store(true, std::memory_order_seq_cst);
      for (const Lane& lane : lock_.lanes_) {
        while (lane.count.load(std::memory_order_seq_cst) != 0) std::this_thread::yield();
      }
    }
    ~Writer() {
      lock_.closed_.store(false, std::memory_order_seq_cst);
      lock_.closed_.notify_all();
    }
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;

   private:
    ShortLock& lock_;
    std::lock_guard<std::mutex> one_writer_;
  };

 private:
  static constexpr size_t kLanes = 16;
  struct alignas(64) Lane {
    std::atomic<long> count{0};
  };

  std::atomic<long>& enter() noexcept {
    const Executor* executor = Executor::current();
    std::atomic<long>& count = lanes_[executor != nullptr ? executor->slot() % kLanes : 0].count;
    for (;;) {
      count.fetch_add(1, std::memory_order_seq_cst);
      if (!closed_.load(std::memory_order_seq_cst)) [[likely]]
        return count;
      count.fetch_sub(1, std::memory_order_seq_cst);
      closed_.wait(true);
    }
  }

  std::array<Lane, kLanes> lanes_;
  std::atomic<bool> closed_{false};
  std::mutex writers_;
};

}  // namespace strata
