// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstdint>
#include <memory>

#include "block/virtio/mapped_file.h"

namespace strata::virtio {

// The bitmap of pages that were written, which a front end keeps while it migrates the guest. Any
// thread may mark, at the same time as others and as the front end.
class DirtyLog {
 public:
  static constexpr uint64_t kPage = 4096;

  // Throws Error.
  DirtyLog(int fd, uint64_t offset, uint64_t size) : map_(fd, offset, size) {}

  // Pages the log does not reach are left out.
  void mark(uint64_t guest_address, uint64_t bytes) noexcept {
    if (bytes == 0) return;
    auto* bits = reinterpret_cast<uint8_t*>(map_.data());
    uint64_t last = (guest_address + bytes - 1) / kPage;
    for (uint64_t page = guest_address / kPage; page <= last && page / 8 < map_.size(); ++page) {
      auto bit = static_cast<uint8_t>(1u << page % 8);
      __atomic_fetch_or(&bits[page / 8], bit, __ATOMIC_RELAXED);
    }
  }
  // Whether bits of the whole range have a place.
  bool covers(uint64_t guest_address, uint64_t bytes) const noexcept {
    return bytes != 0 && bytes - 1 <= UINT64_MAX - guest_address &&
           (guest_address + bytes - 1) / kPage / 8 < map_.size();
  }
  bool is_damaged() const noexcept { return map_.is_damaged(); }

 private:
  MappedFile map_;
};

}  // namespace strata::virtio
