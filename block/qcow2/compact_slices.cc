// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/compact_slices.h"

#include <new>

#include "block/qcow2/slice_memory.h"

namespace strata::qcow2 {

void CompactSlices::configure(const Geometry& geometry, uint64_t bytes) {
  step_ = geometry.cluster_size();
  words_per_entry_ = geometry.extended_l2() ? 2 : 1;
  count_ = bytes / sizeof(Entry) / kWays * kWays;
  entries_.reset(count_ != 0 ? static_cast<Entry*>(std::calloc(count_, sizeof(Entry))) : nullptr);
  if (count_ != 0 && !entries_) throw std::bad_alloc();
}

L2Entry CompactSlices::entry_of(const Run& run, size_t index) const noexcept {
  uint64_t further = index - static_cast<uint32_t>(run.start);
  return {(run.start & kAdvances) != 0 ? run.raw + further * step_ : run.raw, run.bitmap};
}

bool CompactSlices::load(SliceIndex slice, Runs& runs) const noexcept {
  if (count_ == 0) return false;
  for (size_t way = first_way(slice), end = way + kWays; way < end; ++way) {
    const Entry& entry = entries_[way];
    for (;;) {
      uint32_t version = entry.version.load(std::memory_order_acquire);
      if (entry.tag.load(std::memory_order_relaxed) != slice.value + 1) break;
      if (version % 2 != 0) continue;
      runs.count = entry.count.load(std::memory_order_relaxed);
      for (size_t i = 0; i < runs.count; ++i) {
        runs.run[i] = {entry.runs[i][0].load(std::memory_order_relaxed),
                       entry.runs[i][1].load(std::memory_order_relaxed),
                       entry.runs[i][2].load(std::memory_order_relaxed)};
      }
      std::atomic_thread_fence(std::memory_order_acquire);
      if (entry.version.load(std::memory_order_relaxed) == version) return true;
    }
  }
  return false;
}

bool CompactSlices::try_read(SliceIndex slice, unsigned first,
                             std::span<L2Entry> out) const noexcept {
  Runs runs;
  if (!load(slice, runs)) return false;
  size_t run = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    size_t index = first + i;
    while (run + 1 < runs.count && static_cast<uint32_t>(runs.run[run + 1].start) <= index) ++run;
    out[i] = entry_of(runs.run[run], index);
  }
  return true;
}

// False: it takes more runs than there is room for.
bool CompactSlices::describe(const uint64_t* words, size_t entries, Runs& runs) const noexcept {
  auto entry_at = [&](size_t i) {
    const uint64_t* word = words + i * words_per_entry_;
    return L2Entry{load_word(word[0]), words_per_entry_ == 2 ? load_word(word[1]) : 0};
  };
  runs.count = 0;
  for (size_t i = 0; i < entries;) {
    if (runs.count == kMostRuns) return false;
    L2Entry first = entry_at(i);
    Run& run = runs.run[runs.count++];
    run = {i, first.raw, first.bitmap};
    if (++i == entries) break;
    if (entry_at(i) != first) run.start |= kAdvances;
    while (i < entries && entry_at(i) == entry_of(run, i)) ++i;
  }
  return true;
}

void CompactSlices::store(Entry& entry, uint64_t tag, const Runs& runs) noexcept {
  entry.version.store(entry.version.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  entry.tag.store(tag, std::memory_order_relaxed);
  entry.count.store(static_cast<uint32_t>(runs.count), std::memory_order_relaxed);
  for (size_t i = 0; i < runs.count; ++i) {
    entry.runs[i][0].store(runs.run[i].start, std::memory_order_relaxed);
    entry.runs[i][1].store(runs.run[i].raw, std::memory_order_relaxed);
    entry.runs[i][2].store(runs.run[i].bitmap, std::memory_order_relaxed);
  }
  entry.version.store(entry.version.load(std::memory_order_relaxed) + 1, std::memory_order_release);
}

void CompactSlices::put(SliceIndex slice, const uint64_t* words, size_t entries) noexcept {
  Runs runs;
  if (count_ == 0 || !describe(words, entries, runs)) return;
  size_t first = first_way(slice);
  size_t chosen = first + next_victim_++ % kWays;
  for (size_t way = first; way < first + kWays; ++way) {
    if (entries_[way].tag.load(std::memory_order_relaxed) == 0) chosen = way;
  }
  store(entries_[chosen], slice.value + 1, runs);
}

bool CompactSlices::take(SliceIndex slice, uint64_t* words, size_t entries) noexcept {
  Runs runs;
  if (!load(slice, runs)) return false;
  size_t run = 0;
  for (size_t i = 0; i < entries; ++i) {
    while (run + 1 < runs.count && static_cast<uint32_t>(runs.run[run + 1].start) <= i) ++run;
    L2Entry entry = entry_of(runs.run[run], i);
    store_word(words[i * words_per_entry_], entry.raw);
    if (words_per_entry_ == 2) store_word(words[i * 2 + 1], entry.bitmap);
  }
  drop(slice);
  return true;
}

void CompactSlices::drop(SliceIndex slice) noexcept {
  if (count_ == 0) return;
  for (size_t way = first_way(slice), end = way + kWays; way < end; ++way) {
    if (entries_[way].tag.load(std::memory_order_relaxed) == slice.value + 1)
      store(entries_[way], 0, Runs{});
  }
}

void CompactSlices::clear() noexcept {
  for (Entry& entry : std::span(entries_.get(), count_))
    if (entry.tag.load(std::memory_order_relaxed) != 0) store(entry, 0, Runs{});
}

}  // namespace strata::qcow2
