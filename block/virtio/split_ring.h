// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <deque>

#include "block/virtio/in_flight.h"
#include "block/virtio/ring.h"

namespace strata::virtio {

// A descriptor table, a ring of what is available and one of what is used.
class SplitRing final : public Ring {
 public:
  static std::unique_ptr<Ring> make(const RingSetup& setup, std::string& why);

  Taken take(Element& element) override;
  bool has_available() const noexcept override;
  void give_back(const Element& element, uint32_t written) noexcept override;
  bool publish() noexcept override;
  void want_notifications(bool on) noexcept override;
  uint32_t base() const noexcept override { return next_available_; }
  Written used_area() const noexcept override;

 private:
  // The area after the ring's entries holds one 16-bit index more.
  struct Available {
    uint16_t flags;
    uint16_t idx;
    uint16_t ring[];
  };
  struct Used {
    uint16_t flags;
    uint16_t idx;
    vring_used_elem ring[];
  };

  explicit SplitRing(const RingSetup& setup) noexcept;
  bool map(const RingSetup& setup, std::string& why);
  bool restore(std::string& why);
  void finish_last_batch(QueueRegionSplit& region) const noexcept;
  bool follow_chain(Element& element);
  bool take_head(Element& element, uint16_t head);
  Descriptor descriptor(uint16_t index) const noexcept;
  bool wants_notification(uint16_t old_idx) noexcept;
  uint16_t& used_event() const noexcept { return available_->ring[size_]; }
  uint16_t& available_event() const noexcept {
    return *reinterpret_cast<uint16_t*>(&used_->ring[size_]);
  }

  vring_desc* table_ = nullptr;
  Available* available_ = nullptr;
  Used* used_ = nullptr;
  QueueRegionSplit* in_flight_ = nullptr;
  uint16_t area_size_ = 0;  // what the area was made for
  uint64_t counter_ = 0;

  uint16_t next_available_;
  uint16_t seen_available_;        // the driver's index, as last read
  uint16_t used_idx_ = 0;          // published
  bool ever_published_ = false;    // until then the driver's wish is not to be trusted
  std::vector<bool> taken_;        // by head
  std::vector<uint16_t> batch_;    // heads given back and not published
  std::deque<uint16_t> resubmit_;  // heads left by a predecessor
};

}  // namespace strata::virtio
