// SPDX-License-Identifier: GPL-2.0-or-later
//
// Counters of requests: per operation, in one cache-line-separated lane an executor, so that
// counting shares nothing between threads.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>

#include "block/aio/request_clock.h"
#include "block/coro/executor.h"

namespace strata {

enum class IoKind : uint8_t { read, write, flush, discard, zeroes };
inline constexpr size_t kIoKinds = 5;

// A latency histogram's buckets: bucket n counts requests of less than 2^(n + 10) ns; the last, the
// rest.
inline constexpr size_t kLatencyBuckets = 24;

struct IoTotals {
  uint64_t requests = 0;  // done, failed ones included
  uint64_t bytes = 0;     // of those that succeeded
  uint64_t failed = 0;
  uint64_t time_ns = 0;
  uint64_t in_flight = 0;
  std::array<uint64_t, kLatencyBuckets> latency{};
};

class IoStats {
 public:
  IoStats() noexcept = default;
  ~IoStats() {
    for (std::atomic<Lane*>& lane : lanes_) delete lane.load(std::memory_order_relaxed);
  }
  IoStats(const IoStats&) = delete;
  IoStats& operator=(const IoStats&) = delete;

 private:
  using Counter = std::atomic<uint64_t>;
  struct Counters {
    Counter started{0};
    Counter done{0};
    Counter bytes{0};
    Counter failed{0};
    Counter time_ns{0};
    std::array<Counter, kLatencyBuckets> latency{};
  };

 public:
  // A request, from its construction to done() or its destruction (which counts as failed).
  class Request {
   public:
    Request(IoStats& stats, IoKind kind, uint64_t bytes) noexcept
        : counters_(stats.here().kinds[static_cast<size_t>(kind)]),
          bytes_(bytes),
          start_(RequestClock::now()) {
      bump(counters_.started, 1);
    }
    ~Request() {
      if (!ended_) done(false);
    }
    Request(const Request&) = delete;
    Request& operator=(const Request&) = delete;

    void done(bool ok) noexcept {
      ended_ = true;
      auto ns = static_cast<uint64_t>((RequestClock::now() - start_).count());
      bump(counters_.done, 1);
      bump(counters_.time_ns, ns);
      bump(counters_.latency[bucket(ns)], 1);
      if (ok)
        bump(counters_.bytes, bytes_);
      else
        bump(counters_.failed, 1);
    }

   private:
    Counters& counters_;
    uint64_t bytes_;
    TimePoint start_;
    bool ended_ = false;
  };

  // Any thread; what other threads count meanwhile may or may not be in it.
  IoTotals totals(IoKind kind) const noexcept {
    IoTotals sum;
    uint64_t started = 0;
    for (const std::atomic<Lane*>& slot : lanes_) {
      const Lane* lane = slot.load(std::memory_order_acquire);
      if (lane == nullptr) continue;
      const Counters& counters = lane->kinds[static_cast<size_t>(kind)];
      sum.requests += counters.done.load(std::memory_order_relaxed);
      started += counters.started.load(std::memory_order_relaxed);
      sum.bytes += counters.bytes.load(std::memory_order_relaxed);
      sum.failed += counters.failed.load(std::memory_order_relaxed);
      sum.time_ns += counters.time_ns.load(std::memory_order_relaxed);
      for (size_t i = 0; i < kLatencyBuckets; ++i)
        sum.latency[i] += counters.latency[i].load(std::memory_order_relaxed);
    }
    sum.in_flight = started > sum.requests ? started - sum.requests : 0;
    return sum;
  }

 private:
  struct alignas(64) Lane {
    std::array<Counters, kIoKinds> kinds;
  };

  // Lanes belong to one thread while there are no more contexts than slots, which is always but in
  // freak set-ups; then a count may be lost, and nothing else.
  static void bump(Counter& counter, uint64_t by) noexcept {
    counter.store(counter.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
  }
  static size_t bucket(uint64_t ns) noexcept {
    size_t n = static_cast<size_t>(std::bit_width(ns >> 10));
    return n < kLatencyBuckets ? n : kLatencyBuckets - 1;
  }
  Lane& here() noexcept {
    const Executor* executor = Executor::current();
    std::atomic<Lane*>& slot = lanes_[executor != nullptr ? executor->slot() : 0];
    Lane* lane = slot.load(std::memory_order_acquire);
    if (lane != nullptr) [[likely]]
      return *lane;
    auto fresh = std::make_unique<Lane>();
    if (slot.compare_exchange_strong(lane, fresh.get())) return *fresh.release();
    return *lane;
  }

  std::array<std::atomic<Lane*>, Executor::kSlots> lanes_{};
};

}  // namespace strata
