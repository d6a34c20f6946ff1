// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <memory>
#include <string>

#include "block/virtio/ring.h"
#include "tests/support/vring.h"

namespace strata::virtio {

// A guest with one region of memory: rings in its first 64 KiB, buffers behind them.
struct Rig {
  static constexpr uint64_t kUser = 0x7f0000000000;
  static constexpr uint64_t kGuest = 0x40000000;
  static constexpr uint64_t kTable = 0;
  static constexpr uint64_t kAvailable = 0x4000;
  static constexpr uint64_t kUsed = 0x8000;
  static constexpr uint64_t kBuffers = 0x10000;

  explicit Rig(size_t bytes = 1 << 20) : guest(bytes) {
    memory.add({kGuest, bytes, kUser, 0}, guest.fd());
  }
  RingSetup setup(uint16_t size) const {
    RingSetup setup;
    setup.memory = &memory;
    setup.addresses = {kUser + kTable, kUser + kAvailable, kUser + kUsed};
    setup.size = size;
    return setup;
  }
  // Null where the set-up is refused; `why` says why.
  std::unique_ptr<Ring> make(bool packed, const RingSetup& from) {
    return Ring::make(packed, from, why);
  }
  test::SplitDriver split(uint16_t size) const {
    return {guest.data() + kTable, guest.data() + kAvailable, guest.data() + kUsed, size};
  }
  test::PackedDriver packed(uint16_t size) const {
    return {guest.data() + kTable, guest.data() + kAvailable, guest.data() + kUsed, size};
  }

  test::FakeGuest guest;
  GuestMemory memory;
  std::string why;
};

}  // namespace strata::virtio
