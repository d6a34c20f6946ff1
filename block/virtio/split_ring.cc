// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/virtio/split_ring.h"

#include <algorithm>
#include <atomic>

#include "block/base/math.h"

namespace strata::virtio {

SplitRing::SplitRing(const RingSetup& setup) noexcept
    : Ring(setup),
      next_available_(static_cast<uint16_t>(setup.base)),
      seen_available_(next_available_) {}

std::unique_ptr<Ring> SplitRing::make(const RingSetup& setup, std::string& why) {
  std::unique_ptr<SplitRing> ring(new SplitRing(setup));
  if (!is_power_of_two(setup.size)) {
    why = "the size of a split ring is no power of two";
    return nullptr;
  }
  if (!ring->map(setup, why) || !ring->restore(why)) return nullptr;
  return ring;
}

bool SplitRing::map(const RingSetup& setup, std::string& why) {
  const GuestMemory& memory = *setup.memory;
  const RingAddresses& at = setup.addresses;
  table_ = reinterpret_cast<vring_desc*>(
      memory.at_user_address(at.descriptors, size_ * sizeof(vring_desc), 16, Use::read));
  available_ = reinterpret_cast<Available*>(
      memory.at_user_address(at.available, sizeof(Available) + (size_ + 1u) * 2, 2, Use::read));
  used_ = reinterpret_cast<Used*>(memory.at_user_address(
      at.used, sizeof(Used) + size_ * sizeof(vring_used_elem) + 2, 4, Use::write));
  if (table_ == nullptr || available_ == nullptr || used_ == nullptr) {
    why = "the ring lies outside the guest's memory";
    return false;
  }
  if (setup.in_flight != nullptr) {
    if (setup.in_flight_size < size_) {
      why = "the in-flight area is too small";
      return false;
    }
    area_size_ = setup.in_flight_size;
    in_flight_ = reinterpret_cast<QueueRegionSplit*>(setup.in_flight);
  }
  taken_.assign(size_, false);
  batch_.reserve(size_);
  used_idx_ = shared_load(used_->idx);
  return true;
}

// Used entries that a predecessor had made visible, and whose marks it had not taken back yet.
void SplitRing::finish_last_batch(QueueRegionSplit& region) const noexcept {
  auto left = static_cast<uint16_t>(used_idx_ - shared_load(region.used_idx));
  uint16_t head = shared_load(region.last_batch_head);
  for (left = std::min(left, size_); left != 0 && head < size_; --left) {
    shared_store(region.desc[head].inflight, uint8_t{0});
    head = shared_load(region.desc[head].next);
  }
  shared_store_release(region.used_idx, used_idx_);
}

bool SplitRing::restore(std::string& why) {
  if (in_flight_ == nullptr) return true;
  QueueRegionSplit& region = *in_flight_;
  if (shared_load(region.version) == 0) {
    for (uint16_t i = 0; i < size_; ++i) region.desc[i] = {};
    region.features = 0;
    region.desc_num = area_size_;
    region.last_batch_head = 0;
    region.used_idx = used_idx_;
    shared_store_release(region.version, kInFlightVersion);
    return true;
  }
  if (shared_load(region.version) != kInFlightVersion ||
      shared_load(region.desc_num) != area_size_) {
    why = "the in-flight area belongs to another ring";
    return false;
  }
  if (shared_load(region.used_idx) != used_idx_) finish_last_batch(region);
  std::vector<std::pair<uint64_t, uint16_t>> order;
  for (uint16_t head = 0; head < size_; ++head) {
    if (shared_load(region.desc[head].inflight) == 1)
      order.emplace_back(shared_load(region.desc[head].counter), head);
  }
  std::ranges::sort(order);
  for (auto [counter, head] : order) {
    resubmit_.push_back(head);
    counter_ = counter + 1;
  }
  // What had been taken lies between the used index and where its successor goes on.
  next_available_ = static_cast<uint16_t>(used_idx_ + order.size());
  seen_available_ = next_available_;
  return true;
}

bool SplitRing::has_available() const noexcept {
  return !resubmit_.empty() || shared_load(available_->idx) != next_available_;
}

Ring::Descriptor SplitRing::descriptor(uint16_t index) const noexcept {
  const vring_desc& raw = table_[index];
  return {shared_load(raw.addr), shared_load(raw.len), shared_load(raw.flags),
          shared_load(raw.next)};
}

Ring::Taken SplitRing::take(Element& element) {
  if (is_broken()) return Taken::broken;
  uint16_t head;
  if (!resubmit_.empty()) [[unlikely]] {
    head = resubmit_.front();
    resubmit_.pop_front();
  } else {
    if (seen_available_ == next_available_) {
      seen_available_ = shared_load_acquire(available_->idx);
      if (seen_available_ == next_available_) return Taken::none;
      if (static_cast<uint16_t>(seen_available_ - next_available_) > size_) {
        fail("the index of the available ring has jumped");
        return Taken::broken;
      }
    }
    head = shared_load(available_->ring[next_available_ & (size_ - 1)]);
    if (head >= size_) {
      fail("a head is outside the descriptor table");
      return Taken::broken;
    }
    ++next_available_;
  }
  return take_head(element, head) ? Taken::element : Taken::broken;
}

bool SplitRing::take_head(Element& element, uint16_t head) {
  if (taken_[head]) return fail("a head was made available twice");
  element.clear();
  element.id = head;
  element.descriptors = 1;
  if (!follow_chain(element)) return false;
  taken_[head] = true;
  if (in_flight_ != nullptr) {
    DescStateSplit& state = in_flight_->desc[head];
    shared_store(state.counter, counter_++);
    shared_store_release(state.inflight, uint8_t{1});
  }
  return true;
}

bool SplitRing::follow_chain(Element& element) {
  Descriptor entry = descriptor(element.id);
  for (unsigned length = 1;; ++length) {
    if ((entry.flags & kIndirect) != 0) {
      if ((entry.flags & kNext) != 0) return fail("an indirect descriptor has a successor");
      return add_indirect(element, entry, true);
    }
    if (!add_part(element, entry)) return false;
    if ((entry.flags & kNext) == 0) return true;
    if (length == size_) return fail("a chain of descriptors is a loop");
    if (entry.next >= size_) return fail("a descriptor's successor is outside the table");
    entry = descriptor(entry.next);
  }
}

void SplitRing::give_back(const Element& element, uint32_t written) noexcept {
  auto place = static_cast<uint16_t>(used_idx_ + unpublished_) & (size_ - 1);
  shared_store(used_->ring[place].id, uint32_t{element.id});
  shared_store(used_->ring[place].len, written);
  taken_[element.id] = false;
  ++unpublished_;
  if (in_flight_ != nullptr) {
    shared_store(in_flight_->desc[element.id].next, shared_load(in_flight_->last_batch_head));
    shared_store_release(in_flight_->last_batch_head, element.id);
    batch_.push_back(element.id);
  }
}

bool SplitRing::publish() noexcept {
  if (unpublished_ == 0) return false;
  uint16_t old_idx = used_idx_;
  used_idx_ = static_cast<uint16_t>(used_idx_ + unpublished_);
  unpublished_ = 0;
  shared_store_release(used_->idx, used_idx_);
  if (in_flight_ != nullptr) {
    std::atomic_thread_fence(std::memory_order_release);
    for (uint16_t head : batch_) shared_store(in_flight_->desc[head].inflight, uint8_t{0});
    batch_.clear();
    shared_store_release(in_flight_->used_idx, used_idx_);
  }
  return wants_notification(old_idx);
}

bool SplitRing::wants_notification(uint16_t old_idx) noexcept {
  // The index must be visible before the driver's wish is read: it does it the other way round.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!event_index_) return (shared_load(available_->flags) & VRING_AVAIL_F_NO_INTERRUPT) == 0;
  bool first = !ever_published_;
  ever_published_ = true;
  return first || vring_need_event(shared_load(used_event()), used_idx_, old_idx) != 0;
}

void SplitRing::want_notifications(bool on) noexcept {
  if (event_index_) {
    if (!on) return;  // it names an index that has passed
    shared_store(available_event(), next_available_);
  } else {
    shared_store(used_->flags, on ? uint16_t{0} : uint16_t{VRING_USED_F_NO_NOTIFY});
  }
  if (on) std::atomic_thread_fence(std::memory_order_seq_cst);
}

Ring::Written SplitRing::used_area() const noexcept {
  return {0, sizeof(Used) + size_ * sizeof(vring_used_elem) + 2};
}

}  // namespace strata::virtio
