// SPDX-License-Identifier: GPL-2.0-or-later
//
// The in-flight area of a packed ring: the descriptors themselves are kept in it, since the device
// overwrites those in the ring.
#include <algorithm>
#include <utility>

#include "block/virtio/packed_ring.h"

namespace strata::virtio {

bool PackedRing::restore(std::string& why) {
  if (area_ == nullptr) return true;
  next_.assign(size_, 0);
  last_.assign(size_, 0);
  num_.assign(size_, 0);
  if (shared_load(area_->version) == 0) {
    initialise_area();
    return true;
  }
  return read_area(why) && read_free_list(why) && collect_unfinished(why);
}

void PackedRing::initialise_area() {
  for (uint16_t i = 0; i < size_; ++i) {
    area_->desc[i] = {};
    next_[i] = static_cast<uint16_t>(i + 1);  // the last one's is size_: none
    area_->desc[i].next = next_[i];
  }
  area_->features = 0;
  area_->desc_num = area_size_;
  area_->free_head = area_->old_free_head = 0;
  area_->used_idx = area_->old_used_idx = used_.index;
  area_->used_wrap_counter = area_->old_used_wrap_counter = used_.wrap;
  shared_store_release(area_->version, kInFlightVersion);
}

// Where the predecessor stood: a batch that the driver may have seen counts, another does not.
bool PackedRing::read_area(std::string& why) {
  uint16_t index = shared_load(area_->used_idx);
  uint16_t old_index = shared_load(area_->old_used_idx);
  uint16_t free_head = shared_load(area_->free_head);
  uint16_t old_free_head = shared_load(area_->old_free_head);
  bool sound = shared_load(area_->version) == kInFlightVersion &&
               shared_load(area_->desc_num) == area_size_ && index < size_ && old_index < size_ &&
               free_head <= size_ && old_free_head <= size_;
  if (!sound) {
    why = "the in-flight area belongs to another ring";
    return false;
  }
  Position now{index, shared_load(area_->used_wrap_counter) != 0};
  Position before{old_index, shared_load(area_->old_used_wrap_counter) != 0};
  bool seen = now != before && !is_available(shared_load(ring_[before.index].flags), before);
  used_ = seen ? now : before;
  free_head_ = seen ? free_head : old_free_head;
  shared_store(area_->free_head, free_head_);
  shared_store(area_->old_free_head, free_head_);
  shared_store(area_->used_idx, used_.index);
  shared_store(area_->old_used_idx, used_.index);
  shared_store(area_->used_wrap_counter, uint8_t{used_.wrap});
  shared_store(area_->old_used_wrap_counter, uint8_t{used_.wrap});
  for (uint16_t i = 0; i < size_; ++i) next_[i] = shared_load(area_->desc[i].next);
  return true;
}

bool PackedRing::read_free_list(std::string& why) {
  std::vector<bool> seen(size_, false);
  for (uint16_t entry = free_head_; entry != size_; entry = next_[entry]) {
    if (entry > size_ || seen[entry]) {
      why = "the in-flight area is not sound";
      return false;
    }
    seen[entry] = true;
    shared_store(area_->desc[entry].inflight, uint8_t{0});
  }
  return true;
}

bool PackedRing::collect_unfinished(std::string& why) {
  std::vector<std::pair<uint64_t, uint16_t>> order;
  unsigned places = 0;
  for (uint16_t head = 0; head < size_; ++head) {
    const DescStatePacked& state = area_->desc[head];
    if (shared_load(state.inflight) != 1) continue;
    num_[head] = shared_load(state.num);
    last_[head] = shared_load(state.last);
    places += num_[head];
    if (num_[head] == 0 || places > size_ || last_[head] >= size_) {
      why = "the in-flight area is not sound";
      return false;
    }
    order.emplace_back(shared_load(state.counter), head);
  }
  std::ranges::sort(order);
  for (auto [counter, head] : order) {
    unfinished_.push_back(head);
    counter_ = counter + 1;
  }
  // What had been taken lies between what is used and where its successor goes on.
  available_ = used_;
  available_.advance(places, size_);
  return true;
}

bool PackedRing::take_unfinished(Element& element) {
  uint16_t head = unfinished_.front();
  unfinished_.pop_front();
  element.clear();
  uint16_t entry = head;
  for (uint16_t i = 0; i < num_[head]; ++i) {
    if (entry >= size_) return fail("the in-flight area is not sound");
    const DescStatePacked& state = area_->desc[entry];
    Descriptor saved{shared_load(state.addr), shared_load(state.len), shared_load(state.flags),
                     shared_load(state.id)};
    if (!add(element, saved)) return false;
    element.id = saved.next;
    entry = next_[entry];
  }
  element.descriptors = num_[head];
  element.tracker = head;
  if (taken_[element.id]) return fail("a buffer was made available twice");
  taken_[element.id] = true;
  return true;
}

// Keeps the chain that has just been read.
bool PackedRing::track(Element& element) {
  const uint16_t head = free_head_;
  uint16_t entry = head;
  uint16_t last = head;
  for (const Descriptor& saved : chain_) {
    if (entry >= size_) return fail("more descriptors are in flight than the ring has");
    DescStatePacked& state = area_->desc[entry];
    shared_store(state.addr, saved.address);
    shared_store(state.len, saved.bytes);
    shared_store(state.flags, saved.flags);
    shared_store(state.id, saved.next);
    last = entry;
    entry = next_[entry];
  }
  element.tracker = head;
  num_[head] = element.descriptors;
  last_[head] = last;
  DescStatePacked& state = area_->desc[head];
  shared_store(state.num, element.descriptors);
  shared_store(state.last, last);
  shared_store(state.counter, counter_++);
  shared_store_release(state.inflight, uint8_t{1});
  free_head_ = entry;
  shared_store(area_->free_head, entry);
  shared_store_release(area_->old_free_head, entry);
  return true;
}

// Puts the entries of what is being published back into the free list.
void PackedRing::untrack() {
  for (const GivenBack& given : batch_) {
    uint16_t last = last_[given.tracker];
    next_[last] = free_head_;
    shared_store(area_->desc[last].next, free_head_);
    free_head_ = given.tracker;
  }
  shared_store_release(area_->free_head, free_head_);
}

}  // namespace strata::virtio
