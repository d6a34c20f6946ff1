// SPDX-License-Identifier: GPL-2.0-or-later
//
// What each sector of the guest's disk may hold.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "tests/sim/sim_disk.h"

namespace strata::sim {

// Every write gives its sectors a number of its own; 0 stands for zeroes.
using Mark = uint64_t;
inline constexpr uint64_t kMarkStride = 1000003;

inline void fill_sector(std::byte* out, Mark mark, uint64_t sector) noexcept {
  std::memset(out, 0, kSector);
  if (mark == 0) return;
  for (uint64_t i = 0; i < kSector / 16; ++i) {
    uint64_t words[2] = {mark, sector * kMarkStride + i};
    std::memcpy(out + i * 16, words, sizeof words);
  }
}

class Oracle {
 public:
  explicit Oracle(uint64_t sectors) : now_(sectors, {0}), durable_(sectors, {0}), busy_(sectors) {}

  uint64_t sectors() const noexcept { return now_.size(); }

  // Takes the sectors for a change, unless somebody else has one of them.
  bool try_begin(uint64_t first, uint64_t count) {
    for (uint64_t i = first; i < first + count; ++i) {
      if (busy_[i].changing) return false;
    }
    for (uint64_t i = first; i < first + count; ++i) busy_[i].changing = true;
    return true;
  }
  // The change is under way: it may reach the disk at any time from now on.
  void issue(uint64_t first, uint64_t count, Mark mark) {
    for (uint64_t i = first; i < first + count; ++i) {
      add(durable_[i], mark);
      busy_[i].issued = ++clock_;
    }
  }
  void end(uint64_t first, uint64_t count, Mark mark, bool ok) {
    for (uint64_t i = first; i < first + count; ++i) {
      if (ok)
        now_[i] = {mark};
      else
        add(now_[i], mark);
      busy_[i].changing = false;
    }
  }

  void release(uint64_t first, uint64_t count) {
    for (uint64_t i = first; i < first + count; ++i) busy_[i].changing = false;
  }
  // Nothing is under way any more.
  void settle() { std::fill(busy_.begin(), busy_.end(), Busy{}); }

  // A flush that began at `began` has succeeded: what had ended by then is durable.
  struct Flush {
    uint64_t began;
    std::vector<std::vector<Mark>> state;
    std::vector<bool> settled;
  };
  Flush begin_flush() const {
    Flush flush{clock_, now_, std::vector<bool>(sectors())};
    for (uint64_t i = 0; i < sectors(); ++i) flush.settled[i] = !busy_[i].changing;
    return flush;
  }
  void end_flush(const Flush& flush) {
    for (uint64_t i = 0; i < sectors(); ++i) {
      if (flush.settled[i] && busy_[i].issued <= flush.began) durable_[i] = flush.state[i];
    }
  }

  bool may_be(uint64_t sector, const std::byte* data) const {
    return fits(now_[sector], sector, data);
  }
  bool may_survive(uint64_t sector, const std::byte* data) const {
    return fits(durable_[sector], sector, data);
  }
  // The power failed and this is what was found.
  void found(uint64_t sector, const std::byte* data) {
    for (Mark mark : durable_[sector]) {
      if (fits({mark}, sector, data)) {
        now_[sector] = durable_[sector] = {mark};
        return;
      }
    }
  }
  void allow(uint64_t sector, Mark mark) {
    add(now_[sector], mark);
    add(durable_[sector], mark);
  }
  // Each sector may be as it is, or as `other` has it now.
  void merge(const Oracle& other) {
    for (uint64_t i = 0; i < std::min(sectors(), other.sectors()); ++i) {
      for (Mark mark : other.now_[i]) {
        add(now_[i], mark);
        add(durable_[i], mark);
      }
    }
  }
  // Nothing is under way. What is new reads as zeroes.
  void resize(uint64_t sectors) {
    now_.resize(sectors, {0});
    durable_.resize(sectors, {0});
    busy_.resize(sectors);
  }
  void set(uint64_t sector, Mark mark) { now_[sector] = durable_[sector] = {mark}; }
  const std::vector<Mark>& marks(uint64_t sector) const { return now_[sector]; }
  const std::vector<Mark>& durable_marks(uint64_t sector) const { return durable_[sector]; }

 private:
  struct Busy {
    bool changing = false;
    uint64_t issued = 0;
  };
  static void add(std::vector<Mark>& marks, Mark mark) {
    if (std::find(marks.begin(), marks.end(), mark) == marks.end()) marks.push_back(mark);
  }
  static bool fits(const std::vector<Mark>& marks, uint64_t sector, const std::byte* data) {
    std::byte expected[kSector];
    for (Mark mark : marks) {
      fill_sector(expected, mark, sector);
      if (std::memcmp(expected, data, kSector) == 0) return true;
    }
    return false;
  }

  std::vector<std::vector<Mark>> now_;
  std::vector<std::vector<Mark>> durable_;
  std::vector<Busy> busy_;
  uint64_t clock_ = 0;
};

}  // namespace strata::sim
