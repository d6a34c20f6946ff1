// SPDX-License-Identifier: GPL-2.0-or-later
//
// The file below an image ends ahead of what is written there. Hosts let writes past the end of a
// file wait for each other, while holes in it are filled side by side; and a hole costs nothing.
// Whoever dies leaves some of it behind, which harms nobody.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <tuple>

#include "block/base/error.h"
#include "block/coro/mutex.h"
#include "block/qcow2/image_file.h"

namespace strata::qcow2 {

class FileTail {
 public:
  // Any context: the file is to end at `end` or behind it, before something is written there. Only
  // a help: where the file cannot grow so, what is written makes it longer.
  Task<void> reach(ImageFile file, HostOffset end) {
    Mutex::Lock lock = co_await growing_.lock();
    uint64_t length = file.length();
    if (end.value <= length) co_return;
    uint64_t more = std::clamp(length / 8, kLeastAhead, kMostAhead);
    if (!co_await resize(file, end.value + more)) wanted_ = false;
  }
  bool is_wanted(const ImageFile& file, HostOffset end) const noexcept {
    return wanted_.load(std::memory_order_relaxed) && end.value > file.length();
  }
  void configure(bool wanted) noexcept { wanted_ = wanted; }

  // Nobody writes. What was made longer here, and not used, goes again.
  Task<void> cut(ImageFile file, HostOffset used) {
    Mutex::Lock lock = co_await growing_.lock();
    uint64_t grown_to = grown_to_;
    uint64_t end = std::max(used.value, file.edge().node().io().highest_write.load());
    if (grown_to != 0 && file.length() == grown_to && end < grown_to)
      std::ignore = co_await resize(file, end);
    grown_to_ = 0;
  }

  // Nobody writes behind `end`, to which the file is cut, be it longer. False: it was not.
  Task<bool> cut_to(ImageFile file, HostOffset end) {
    Mutex::Lock lock = co_await growing_.lock();
    if (file.length() <= end.value) co_return true;
    bool cut = co_await resize(file, end.value);
    if (cut) grown_to_ = 0;
    co_return cut;
  }

 private:
  static constexpr uint64_t kLeastAhead = 1024 * 1024;
  static constexpr uint64_t kMostAhead = 64 * 1024 * 1024;

  Task<bool> resize(ImageFile file, uint64_t size) {
    try {
      co_await io::truncate(file.edge(), size, {.exact = false});
    } catch (const Error&) {
      co_return false;
    }
    grown_to_ = file.length();
    co_return true;
  }

  Mutex growing_;
  std::atomic<bool> wanted_{false};
  uint64_t grown_to_ = 0;  // growing_; 0: the file ends where somebody else made it end
};

}  // namespace strata::qcow2
