// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/virtio/packed_ring.h"

#include <atomic>

namespace strata::virtio {
namespace {

constexpr size_t kIds = 65536;

}  // namespace

PackedRing::PackedRing(const RingSetup& setup) noexcept : Ring(setup) {
  auto position = [](uint32_t bits) {
    return Position{static_cast<uint16_t>(bits & 0x7fff), (bits & 0x8000) != 0};
  };
  available_ = position(setup.base);
  used_ = position(setup.base >> 16);
}

std::unique_ptr<Ring> PackedRing::make(const RingSetup& setup, std::string& why) {
  std::unique_ptr<PackedRing> ring(new PackedRing(setup));
  if (!ring->map(setup, why) || !ring->restore(why)) return nullptr;
  return ring;
}

bool PackedRing::map(const RingSetup& setup, std::string& why) {
  const GuestMemory& memory = *setup.memory;
  const RingAddresses& at = setup.addresses;
  constexpr size_t kEvent = sizeof(vring_packed_desc_event);
  ring_ = reinterpret_cast<vring_packed_desc*>(
      memory.at_user_address(at.descriptors, size_ * sizeof(vring_packed_desc), 16, Use::write));
  driver_ = reinterpret_cast<vring_packed_desc_event*>(
      memory.at_user_address(at.available, kEvent, 4, Use::read));
  device_ = reinterpret_cast<vring_packed_desc_event*>(
      memory.at_user_address(at.used, kEvent, 4, Use::write));
  if (ring_ == nullptr || driver_ == nullptr || device_ == nullptr) {
    why = "the ring lies outside the guest's memory";
    return false;
  }
  if (available_.index >= size_ || used_.index >= size_) {
    why = "the base of the ring is outside it";
    return false;
  }
  if (setup.in_flight != nullptr) {
    if (setup.in_flight_size < size_) {
      why = "the in-flight area is too small";
      return false;
    }
    area_size_ = setup.in_flight_size;
    area_ = reinterpret_cast<QueueRegionPacked*>(setup.in_flight);
  }
  taken_.assign(kIds, false);
  batch_.reserve(size_);
  return true;
}

Ring::Descriptor PackedRing::descriptor(uint16_t index) const noexcept {
  const vring_packed_desc& raw = ring_[index];
  uint16_t flags = shared_load_acquire(raw.flags);
  return {shared_load(raw.addr), shared_load(raw.len), flags, shared_load(raw.id)};
}

bool PackedRing::has_available() const noexcept {
  return !unfinished_.empty() ||
         is_available(shared_load(ring_[available_.index].flags), available_);
}

Ring::Taken PackedRing::take(Element& element) {
  if (is_broken()) return Taken::broken;
  if (!unfinished_.empty()) [[unlikely]]
    return take_unfinished(element) ? Taken::element : Taken::broken;
  if (!is_available(shared_load_acquire(ring_[available_.index].flags), available_))
    return Taken::none;
  element.clear();
  if (!follow_chain(element)) return Taken::broken;
  if (taken_[element.id]) {
    fail("a buffer was made available twice");
    return Taken::broken;
  }
  if (area_ != nullptr && !track(element)) return Taken::broken;
  taken_[element.id] = true;
  available_.advance(element.descriptors, size_);
  return Taken::element;
}

bool PackedRing::add(Element& element, const Descriptor& entry) {
  if ((entry.flags & kIndirect) == 0) return add_part(element, entry);
  if ((entry.flags & kNext) != 0) return fail("an indirect descriptor has a successor");
  return add_indirect(element, entry, false);
}

// The driver makes a chain's first descriptor available last, so that the others are there.
bool PackedRing::follow_chain(Element& element) {
  Position at = available_;
  chain_.clear();
  for (uint16_t length = 1;; ++length) {
    Descriptor entry = descriptor(at.index);
    chain_.push_back(entry);
    if (!add(element, entry)) return false;
    element.id = entry.next;
    element.descriptors = length;
    if ((entry.flags & kNext) == 0) return true;
    if (length == size_) return fail("a chain of descriptors is a loop");
    at.advance(1, size_);
  }
}

void PackedRing::give_back(const Element& element, uint32_t written) noexcept {
  batch_.push_back({element.id, element.descriptors, element.tracker, written});
  taken_[element.id] = false;
  ++unpublished_;
}

void PackedRing::write_used(Position at, const GivenBack& given) noexcept {
  vring_packed_desc& place = ring_[at.index];
  shared_store(place.id, given.id);
  shared_store(place.len, given.written);
}

// The first entry's flags are written last: the driver sees the whole batch or nothing.
bool PackedRing::publish() noexcept {
  if (unpublished_ == 0) return false;
  Position at = used_;
  for (const GivenBack& given : batch_) {
    write_used(at, given);
    at.advance(given.descriptors, size_);
  }
  const Position end = at;
  auto flags_of = [](Position where, const GivenBack& given) {
    unsigned flags = where.wrap ? kAvailable | kUsed : 0;
    return static_cast<uint16_t>(given.written != 0 ? flags | kWrite : flags);
  };
  if (area_ != nullptr) untrack();
  at = used_;
  unsigned advanced = 0;
  for (const GivenBack& given : batch_) {
    if (advanced != 0) shared_store_release(ring_[at.index].flags, flags_of(at, given));
    advanced += given.descriptors;
    at.advance(given.descriptors, size_);
  }
  if (area_ != nullptr) {
    shared_store(area_->used_idx, end.index);
    shared_store_release(area_->used_wrap_counter, uint8_t{end.wrap});
  }
  shared_store_release(ring_[used_.index].flags, flags_of(used_, batch_.front()));
  used_ = end;
  if (area_ != nullptr) {
    std::atomic_thread_fence(std::memory_order_release);
    for (const GivenBack& given : batch_)
      shared_store(area_->desc[given.tracker].inflight, uint8_t{0});
    shared_store(area_->old_free_head, free_head_);
    shared_store(area_->old_used_wrap_counter, uint8_t{end.wrap});
    shared_store_release(area_->old_used_idx, end.index);
  }
  batch_.clear();
  unpublished_ = 0;
  return wants_notification(advanced);
}

bool PackedRing::wants_notification(unsigned advanced) noexcept {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  uint16_t flags = shared_load_acquire(driver_->flags) & 3;
  if (flags != VRING_PACKED_EVENT_FLAG_DESC || !event_index_)
    return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
  uint16_t wish = shared_load(driver_->off_wrap);
  auto event = static_cast<uint16_t>(wish & 0x7fff);
  if (((wish >> 15) != 0) != used_.wrap) event = static_cast<uint16_t>(event - size_);
  return vring_need_event(event, used_.index, static_cast<uint16_t>(used_.index - advanced)) != 0;
}

void PackedRing::want_notifications(bool on) noexcept {
  if (!on) {
    shared_store(device_->flags, uint16_t{VRING_PACKED_EVENT_FLAG_DISABLE});
    return;
  }
  if (event_index_) {
    shared_store(device_->off_wrap, available_.bits());
    shared_store_release(device_->flags, uint16_t{VRING_PACKED_EVENT_FLAG_DESC});
  } else {
    shared_store(device_->flags, uint16_t{VRING_PACKED_EVENT_FLAG_ENABLE});
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

}  // namespace strata::virtio
