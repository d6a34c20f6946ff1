// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <utility>

#include "block/coro/executor.h"

namespace strata::qcow2 {

// Tells when every request that may still use what it once looked up has ended, so that freed
// clusters are handed out again only then. A request enters and leaves with two atomic operations
// in a cache line of its executor; nobody ever waits.
//
// What was unlinked while now() was e is out of everybody's hands when now() is at least e + 2.
class Epochs {
 public:
  class [[nodiscard]] Pass {
   public:
    Pass(Pass&& other) noexcept : count_(std::exchange(other.count_, nullptr)) {}
    Pass& operator=(Pass&&) = delete;
    ~Pass() {
      if (count_ != nullptr) count_->fetch_sub(1, std::memory_order_seq_cst);
    }

   private:
    friend class Epochs;
    explicit Pass(std::atomic<long>& count) noexcept : count_(&count) {}
    std::atomic<long>* count_;
  };

  Pass enter() noexcept {
    Lane& lane = lanes_[slot() % kLanes];
    for (;;) {
      uint64_t epoch = now_.load(std::memory_order_seq_cst);
      std::atomic<long>& count = lane.inside[epoch % 2];
      count.fetch_add(1, std::memory_order_seq_cst);
      if (now_.load(std::memory_order_seq_cst) == epoch) [[likely]]
        return Pass(count);
      count.fetch_sub(1, std::memory_order_seq_cst);
    }
  }

  uint64_t now() const noexcept { return now_.load(std::memory_order_seq_cst); }

  // Moves on if nobody of the epoch before the current one is left. One caller at a time.
  bool try_advance() noexcept {
    uint64_t epoch = now();
    for (const Lane& lane : lanes_) {
      if (lane.inside[(epoch + 1) % 2].load(std::memory_order_seq_cst) != 0) return false;
    }
    now_.store(epoch + 1, std::memory_order_seq_cst);
    return true;
  }

 private:
  static constexpr size_t kLanes = 16;
  struct alignas(64) Lane {
    std::array<std::atomic<long>, 2> inside{};
  };
  static unsigned slot() noexcept {
    const Executor* executor = Executor::current();
    return executor != nullptr ? executor->slot() : 0;
  }

  std::array<Lane, kLanes> lanes_;
  std::atomic<uint64_t> now_{0};
};

}  // namespace strata::qcow2
