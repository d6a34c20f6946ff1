// SPDX-License-Identifier: GPL-2.0-or-later
//
// The driver's side of virtqueues, over plain memory: for tests, fuzzers and the load generator.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "block/virtio/layout.h"

namespace strata::test {

// A memfd that stands for the guest's memory. Guest address 0 is its first byte.
class FakeGuest {
 public:
  explicit FakeGuest(size_t bytes) : bytes_(bytes), fd_(::memfd_create("guest", MFD_CLOEXEC)) {
    if (fd_ < 0 || ::ftruncate(fd_, static_cast<off_t>(bytes)) != 0) std::abort();
    void* map = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    if (map == MAP_FAILED) std::abort();
    data_ = static_cast<std::byte*>(map);
  }
  ~FakeGuest() {
    ::munmap(data_, bytes_);
    ::close(fd_);
  }
  FakeGuest(const FakeGuest&) = delete;
  FakeGuest& operator=(const FakeGuest&) = delete;

  int fd() const { return fd_; }
  size_t size() const { return bytes_; }
  std::byte* data() const { return data_; }
  template <class T>
  T* at(uint64_t address) const {
    return reinterpret_cast<T*>(data_ + address);
  }

 private:
  size_t bytes_;
  int fd_;
  std::byte* data_ = nullptr;
};

struct Buffer {
  uint64_t address = 0;
  uint32_t bytes = 0;
  bool writable = false;  // by the device
};

struct Done {
  uint16_t id = 0;
  uint32_t written = 0;
};

// Descriptors [0, size) belong to chains of `span` places each, so that ids are multiples of it.
class SplitDriver {
 public:
  static constexpr uint64_t table_bytes(uint16_t size) { return size * sizeof(vring_desc); }
  static constexpr uint64_t available_bytes(uint16_t size) { return 6 + 2u * size; }
  static constexpr uint64_t used_bytes(uint16_t size) { return 6 + 8u * size; }

  SplitDriver(std::byte* table, std::byte* available, std::byte* used, uint16_t size)
      : table_(reinterpret_cast<vring_desc*>(table)),
        available_(reinterpret_cast<uint16_t*>(available)),
        used_(reinterpret_cast<uint16_t*>(used)),
        size_(size) {}

  vring_desc& descriptor(uint16_t index) { return table_[index]; }
  uint16_t available_index() const { return available_[1]; }
  uint16_t used_index() const { return __atomic_load_n(&used_[1], __ATOMIC_ACQUIRE); }
  uint16_t& used_event() { return available_[2 + size_]; }
  uint16_t available_event() const {
    return __atomic_load_n(&used_[2 + 4u * size_], __ATOMIC_RELAXED);
  }
  uint16_t device_flags() const { return __atomic_load_n(&used_[0], __ATOMIC_RELAXED); }
  void set_available_index(uint16_t index) {
    __atomic_store_n(&available_[1], index, __ATOMIC_RELEASE);
  }

  // Writes the chain at descriptor `first` without making it available.
  void write_chain(uint16_t first, std::span<const Buffer> chain) {
    for (size_t i = 0; i < chain.size(); ++i) {
      vring_desc& entry = table_[first + i];
      entry.addr = chain[i].address;
      entry.len = chain[i].bytes;
      entry.flags = static_cast<uint16_t>((chain[i].writable ? VRING_DESC_F_WRITE : 0) |
                                          (i + 1 < chain.size() ? VRING_DESC_F_NEXT : 0));
      entry.next = static_cast<uint16_t>(first + i + 1);
    }
  }
  void make_available(uint16_t head) {
    available_[2 + available_[1] % size_] = head;
    set_available_index(static_cast<uint16_t>(available_[1] + 1));
  }
  void add(uint16_t first, std::span<const Buffer> chain) {
    write_chain(first, chain);
    make_available(first);
  }
  std::optional<Done> reap() {
    if (used_index() == seen_) return std::nullopt;
    auto* entry = reinterpret_cast<vring_used_elem*>(&used_[2]) + seen_++ % size_;
    return Done{static_cast<uint16_t>(entry->id), entry->len};
  }
  bool has_used() const { return used_index() != seen_; }

  // With an event index. Asks to be called for the next used entry; look once more afterwards.
  void want_call() {
    __atomic_store_n(&used_event(), seen_, __ATOMIC_RELAXED);
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  // Whether the device is to be kicked for what was made available since the last time.
  bool wants_kick() {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    uint16_t before = std::exchange(kicked_, available_index());
    return before != kicked_ && vring_need_event(available_event(), kicked_, before) != 0;
  }

 private:
  vring_desc* table_;
  uint16_t* available_;
  uint16_t* used_;
  uint16_t size_;
  uint16_t seen_ = 0;
  uint16_t kicked_ = 0;
};

class PackedDriver {
 public:
  PackedDriver(std::byte* ring, std::byte* driver, std::byte* device, uint16_t size)
      : ring_(reinterpret_cast<vring_packed_desc*>(ring)),
        driver_(reinterpret_cast<vring_packed_desc_event*>(driver)),
        device_(reinterpret_cast<vring_packed_desc_event*>(device)),
        size_(size),
        spans_(65536, 1) {}

  vring_packed_desc& descriptor(uint16_t index) { return ring_[index]; }
  vring_packed_desc_event& driver_event() { return *driver_; }
  vring_packed_desc_event& device_event() { return *device_; }
  uint16_t next_index() const { return next_; }

  void add(uint16_t id, std::span<const Buffer> chain, uint16_t more_flags = 0) {
    const uint16_t first = next_;
    uint16_t first_flags = 0;
    added_ = static_cast<uint16_t>(added_ + chain.size());
    for (size_t i = 0; i < chain.size(); ++i) {
      vring_packed_desc& entry = ring_[next_];
      entry.addr = chain[i].address;
      entry.len = chain[i].bytes;
      entry.id = id;
      auto flags = static_cast<uint16_t>((chain[i].writable ? VRING_DESC_F_WRITE : 0) |
                                         (i + 1 < chain.size() ? VRING_DESC_F_NEXT : 0) |
                                         (wrap_ ? 1u << 7 : 1u << 15) | more_flags);
      if (i == 0)
        first_flags = flags;
      else
        entry.flags = flags;
      if (++next_ == size_) {
        next_ = 0;
        wrap_ = !wrap_;
      }
    }
    spans_[id] = static_cast<uint16_t>(chain.size());
    __atomic_store_n(&ring_[first].flags, first_flags, __ATOMIC_RELEASE);
  }
  std::optional<Done> reap() {
    if (!has_used()) return std::nullopt;
    vring_packed_desc& entry = ring_[seen_];
    Done done{entry.id, entry.len};
    unsigned seen = seen_ + spans_[done.id];
    if (seen >= size_) {
      seen -= size_;
      seen_wrap_ = !seen_wrap_;
    }
    seen_ = static_cast<uint16_t>(seen);
    return done;
  }
  bool has_used() const {
    uint16_t flags = __atomic_load_n(&ring_[seen_].flags, __ATOMIC_ACQUIRE);
    return ((flags >> 15) & 1) == seen_wrap_ && ((flags >> 7) & 1) == seen_wrap_;
  }

  // As a SplitDriver's.
  void want_call() {
    driver_->off_wrap = static_cast<uint16_t>(seen_ | (seen_wrap_ ? 1u << 15 : 0));
    __atomic_store_n(&driver_->flags, uint16_t{VRING_PACKED_EVENT_FLAG_DESC}, __ATOMIC_RELEASE);
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  bool wants_kick() {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    uint16_t added = std::exchange(added_, uint16_t{0});
    uint16_t flags = __atomic_load_n(&device_->flags, __ATOMIC_ACQUIRE) & 3;
    if (added == 0 || flags == VRING_PACKED_EVENT_FLAG_DISABLE) return false;
    if (flags != VRING_PACKED_EVENT_FLAG_DESC) return true;
    uint16_t wish = __atomic_load_n(&device_->off_wrap, __ATOMIC_RELAXED);
    auto event = static_cast<uint16_t>(wish & 0x7fff);
    if (((wish >> 15) != 0) != wrap_) event = static_cast<uint16_t>(event - size_);
    return vring_need_event(event, next_, static_cast<uint16_t>(next_ - added)) != 0;
  }

 private:
  vring_packed_desc* ring_;
  vring_packed_desc_event* driver_;
  vring_packed_desc_event* device_;
  uint16_t size_;
  uint16_t next_ = 0;
  bool wrap_ = true;
  uint16_t seen_ = 0;
  bool seen_wrap_ = true;
  uint16_t added_ = 0;  // descriptors, since the device's wish was last looked at
  std::vector<uint16_t> spans_;
};

}  // namespace strata::test
