// SPDX-License-Identifier: GPL-2.0-or-later
//
// A virtqueue over memory that the input fills: rings, tables, requests and the in-flight area hold
// what they like, and change between one step and the next. Nothing outside the memory is touched,
// and everything ends.
//
// The first bytes of the input choose the set-up and the steps, the rest is the guest's memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "block/virtio/blk.h"
#include "block/virtio/in_flight.h"
#include "block/virtio/ring.h"
#include "tests/support/vring.h"

namespace strata::virtio {

class RingFuzz {
 public:
  static constexpr size_t kControlBytes = 16;

  // Two regions that lie side by side in the guest and the other way round in the front end, and
  // the in-flight area.
  RingFuzz() {
    memory_.add({0, kRegion, kUser + kRegion, 0}, guest_.fd());
    memory_.add({kRegion, kRegion, kUser, kRegion}, guest_.fd());
  }

  void run(bool packed, const uint8_t* control, const uint8_t* bytes, size_t size) {
    std::memset(guest_.data(), 0, guest_.size());
    std::memcpy(guest_.data(), bytes, std::min(size, guest_.size()));
    std::memset(area_.data(), 0, area_.size());
    if (size > guest_.size())
      std::memcpy(area_.data(), bytes + guest_.size(),
                  std::min(size - guest_.size(), area_.size()));
    RingSetup setup = choose(control);
    // A ring, and the successor that finds what it left.
    for (int life = 0; life < 2; ++life) {
      std::string why;
      std::unique_ptr<Ring> ring = Ring::make(packed, setup, why);
      if (ring == nullptr) {
        if (why.empty()) std::abort();
        return;
      }
      for (size_t i = 4; i < kControlBytes; ++i) step(*ring, control[i]);
      setup.base = ring->base();
      held_.clear();
    }
  }

 private:
  static constexpr uint64_t kRegion = 32 << 10;
  static constexpr uint64_t kUser = 0x7f0000000000;
  static constexpr uint64_t kAreaBytes = 16 << 10;
  static constexpr size_t kMostHeld = 64;

  RingSetup choose(const uint8_t* control) {
    RingSetup setup;
    setup.memory = &memory_;
    // Mostly sizes that can be, at places where the input's memory is.
    setup.size =
        static_cast<uint16_t>((control[0] & 0x80) != 0 ? control[0] * 257 : 1 << control[0] % 8);
    setup.event_index = (control[1] & 1) != 0;
    // A wrap counter and an index, of both positions of a packed ring.
    uint32_t position = control[2] / 2u | (control[2] & 1u) << 15;
    setup.base = position << 16 | position;
    uint64_t start = kUser + kRegion + (control[1] >> 4) * 4;
    setup.addresses = {start & ~uint64_t{15}, start + 0x1000, start + 0x2000};
    if ((control[1] & 2) != 0) {
      setup.in_flight = area_.data();
      setup.in_flight_size = static_cast<uint16_t>(std::max<unsigned>(setup.size, control[3]));
      if (in_flight_bytes(true, setup.in_flight_size) > kAreaBytes) setup.in_flight = nullptr;
    }
    return setup;
  }

  void step(Ring& ring, uint8_t what) {
    switch (what % 8) {
      case 0:
        ring.publish();
        ring.used_area();
        break;
      case 1:
        ring.want_notifications((what & 8) != 0);
        break;
      case 2:  // the driver writes where nobody expects it
        guest_.data()[what * 67u % guest_.size()] = std::byte{what};
        break;
      case 3:
        give_back(ring, held_.size());
        break;
      case 4:
        give_back(ring, 1);
        break;
      default:
        for (unsigned i = 0; i < what / 8u + 1 && held_.size() < kMostHeld; ++i) {
          if (!take(ring)) break;
        }
    }
  }

  bool take(Ring& ring) {
    ring.has_available();
    Element element;
    switch (ring.take(element)) {
      case Ring::Taken::none:
        return false;
      case Ring::Taken::broken:
        if (ring.problem().empty()) std::abort();
        return false;
      case Ring::Taken::element:
        break;
    }
    check(element);
    serve(element);
    held_.push_back(std::move(element));
    return true;
  }

  static void check(const Element& element) {
    uint64_t readable = 0;
    uint64_t writable = 0;
    for (size_t i = 0; i < element.parts.size(); ++i)
      (i < element.readable_parts ? readable : writable) += element.parts[i].iov_len;
    bool sound = readable == element.readable && writable == element.writable &&
                 element.readable_parts <= element.parts.size() &&
                 element.parts.size() <= kMostDescriptors + 1;
    if (!sound) std::abort();
  }

  // What a device would do: reads all it may read and writes all it may write, the answer too.
  void serve(const Element& element) {
    BlkRequest request =
        parse_blk_request(element, {.bytes = 1 << 20, .block_size = 512, .writable = true});
    uint64_t budget = guest_.size();
    unsigned sum = 0;
    request.data.for_each([&](std::byte* data, size_t size) {
      size = std::min<size_t>(size, budget);
      budget -= size;
      if (request.command == BlkCommand::write) {
        for (size_t i = 0; i < size; i += 61) sum += static_cast<unsigned>(data[i]);
      } else if (request.verdict == VIRTIO_BLK_S_OK) {
        std::memset(data, static_cast<int>(sum++ & 0xff), size);
      }
    });
    if (request.verdict == VIRTIO_BLK_S_OK && request.command != BlkCommand::get_id &&
        request.offset + request.data.size() > uint64_t{1} << 20)
      std::abort();
    if (request.status != nullptr) *request.status = std::byte{request.verdict};
  }

  void give_back(Ring& ring, size_t count) {
    for (; count != 0 && !held_.empty(); --count) {
      ring.give_back(held_.back(), static_cast<uint32_t>(held_.back().writable));
      held_.pop_back();
    }
  }

  test::FakeGuest guest_{2 * kRegion};
  test::FakeGuest area_{kAreaBytes};
  GuestMemory memory_;
  std::vector<Element> held_;
};

template <bool kPacked>
int fuzz_ring(const uint8_t* data, size_t size) {
  static RingFuzz fuzz;
  if (size < RingFuzz::kControlBytes) return 0;
  fuzz.run(kPacked, data, data + RingFuzz::kControlBytes, size - RingFuzz::kControlBytes);
  return 0;
}

}  // namespace strata::virtio
