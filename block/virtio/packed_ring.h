// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <deque>

#include "block/virtio/in_flight.h"
#include "block/virtio/ring.h"

namespace strata::virtio {

// One ring of descriptors, which the driver makes available and the device used in turn.
class PackedRing final : public Ring {
 public:
  static std::unique_ptr<Ring> make(const RingSetup& setup, std::string& why);

  Taken take(Element& element) override;
  bool has_available() const noexcept override;
  void give_back(const Element& element, uint32_t written) noexcept override;
  bool publish() noexcept override;
  void want_notifications(bool on) noexcept override;
  uint32_t base() const noexcept override {
    return available_.bits() | uint32_t{used_.bits()} << 16;
  }
  Written used_area() const noexcept override { return {0, sizeof(vring_packed_desc_event)}; }

 private:
  static constexpr uint16_t kAvailable = 1 << VRING_PACKED_DESC_F_AVAIL;
  static constexpr uint16_t kUsed = 1 << VRING_PACKED_DESC_F_USED;

  // A place in the ring and the lap's parity.
  struct Position {
    uint16_t index = 0;
    bool wrap = true;
    uint16_t bits() const noexcept { return static_cast<uint16_t>(index | (wrap ? 1u << 15 : 0u)); }
    void advance(unsigned by, uint16_t size) noexcept {
      unsigned next = index + by;
      if (next >= size) {
        next -= size;
        wrap = !wrap;
      }
      index = static_cast<uint16_t>(next);
    }
    friend bool operator==(Position, Position) = default;
  };
  struct GivenBack {
    uint16_t id;
    uint16_t descriptors;
    uint16_t tracker;
    uint32_t written;
  };

  explicit PackedRing(const RingSetup& setup) noexcept;
  bool map(const RingSetup& setup, std::string& why);

  // The in-flight area (packed_in_flight.cc).
  bool restore(std::string& why);
  void initialise_area();
  bool read_area(std::string& why);
  bool read_free_list(std::string& why);
  bool collect_unfinished(std::string& why);
  bool track(Element& element);
  void untrack();
  bool take_unfinished(Element& element);

  Descriptor descriptor(uint16_t index) const noexcept;
  bool is_available(uint16_t flags, Position at) const noexcept {
    return ((flags & kAvailable) != 0) == at.wrap && ((flags & kUsed) != 0) != at.wrap;
  }
  bool follow_chain(Element& element);
  bool add(Element& element, const Descriptor& entry);
  void write_used(Position at, const GivenBack& given) noexcept;
  bool wants_notification(unsigned advanced) noexcept;

  vring_packed_desc* ring_ = nullptr;
  vring_packed_desc_event* driver_ = nullptr;
  vring_packed_desc_event* device_ = nullptr;
  Position available_;
  Position used_;                  // published
  std::vector<bool> taken_;        // by id
  std::vector<GivenBack> batch_;   // given back, not published
  std::vector<Descriptor> chain_;  // of the element being taken

  // What the area holds, in our own memory: the other side may write into the area.
  QueueRegionPacked* area_ = nullptr;
  uint16_t area_size_ = 0;  // what the area was made for
  uint64_t counter_ = 0;
  uint16_t free_head_ = 0;  // size_: none
  std::vector<uint16_t> next_;
  std::vector<uint16_t> last_;       // by head
  std::vector<uint16_t> num_;        // by head
  std::deque<uint16_t> unfinished_;  // heads left by a predecessor
};

}  // namespace strata::virtio
