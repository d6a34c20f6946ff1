// SPDX-License-Identifier: GPL-2.0-or-later
//
// Slices that left the cache, told in a few words: most of an image that was written in order, or
// preallocated, is a handful of runs. So a cache that is far too small for the disk still answers
// for much of it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>

#include "block/qcow2/format/entries.h"
#include "block/qcow2/slice_index.h"

namespace strata::qcow2 {

class CompactSlices {
 public:
  static constexpr size_t kMostRuns = 6;

  // In about so many bytes, which the host gives as they are used. Throws std::bad_alloc.
  void configure(const Geometry& geometry, uint64_t bytes);

  // Any context, without waiting: copies the entries from `first` on. False: not here.
  bool try_read(SliceIndex slice, unsigned first, std::span<L2Entry> out) const noexcept;

  // --- One caller at a time ---

  // Keeps the slice if it is simple enough.
  void put(SliceIndex slice, const uint64_t* words, size_t entries) noexcept;
  // The same entries again, as words. False: not here. It is here no more then.
  bool take(SliceIndex slice, uint64_t* words, size_t entries) noexcept;
  void drop(SliceIndex slice) noexcept;
  void clear() noexcept;

 private:
  static constexpr size_t kWays = 4;
  static constexpr uint64_t kAdvances = uint64_t{1} << 32;  // in a run's start

  // From the entry `start & 0xffffffff` on: all equal, or each a cluster further than the last.
  struct Run {
    uint64_t start = 0;
    uint64_t raw = 0;
    uint64_t bitmap = 0;
  };
  struct Runs {
    std::array<Run, kMostRuns> run;
    size_t count = 0;
  };
  // A sequence lock over words that are themselves atomic, as in the cache. All zeroes: nothing.
  struct Entry {
    std::atomic<uint32_t> version{0};
    std::atomic<uint32_t> count{0};
    std::atomic<uint64_t> tag{0};  // slice number + 1; 0: nothing
    std::array<std::array<std::atomic<uint64_t>, 3>, kMostRuns> runs{};
  };

  struct Free {
    void operator()(Entry* entries) const noexcept { std::free(entries); }
  };

  size_t first_way(SliceIndex slice) const noexcept {
    return slice.value % (count_ / kWays) * kWays;
  }
  bool load(SliceIndex slice, Runs& runs) const noexcept;
  L2Entry entry_of(const Run& run, size_t index) const noexcept;
  bool describe(const uint64_t* words, size_t entries, Runs& runs) const noexcept;
  void store(Entry& entry, uint64_t tag, const Runs& runs) noexcept;

  std::unique_ptr<Entry[], Free> entries_;
  size_t count_ = 0;
  uint64_t step_ = 0;
  unsigned words_per_entry_ = 1;
  size_t next_victim_ = 0;
};

}  // namespace strata::qcow2
