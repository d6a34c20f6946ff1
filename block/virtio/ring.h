// SPDX-License-Identifier: GPL-2.0-or-later
//
// A virtqueue, seen from the device: elements are taken from it and given back. Split and packed
// rings are the two kinds. Whatever the driver writes into them, nothing outside its memory is
// touched, nothing endless is done, and what is not sound breaks the ring.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "block/virtio/guest_memory.h"
#include "block/virtio/layout.h"

namespace strata::virtio {

// A chain of descriptors that is longer breaks the ring, as in QEMU.
inline constexpr size_t kMostDescriptors = 1024;
inline constexpr uint16_t kMostRingSize = 32768;

// What a driver has handed over in one go. Reused, so that its vector keeps its memory.
struct Element {
  uint16_t id = 0;           // by which it is given back
  uint16_t descriptors = 0;  // places in the ring that it takes
  uint16_t tracker = 0;      // its place in the in-flight area of a packed ring
  // Memory in the guest: first what the device reads, then what it writes.
  std::vector<iovec> parts;
  size_t readable_parts = 0;
  uint64_t readable = 0;  // bytes
  uint64_t writable = 0;  // bytes

  void clear() noexcept {
    parts.clear();
    readable_parts = 0;
    readable = writable = 0;
  }
};

struct RingAddresses {  // of the front end
  uint64_t descriptors = 0;
  uint64_t available = 0;  // packed: the driver's event suppression
  uint64_t used = 0;       // packed: the device's event suppression
};

// What a ring is made from.
struct RingSetup {
  const GuestMemory* memory = nullptr;  // outlives the ring
  RingAddresses addresses;
  uint16_t size = 0;
  uint32_t base = 0;  // as in SET_VRING_BASE
  bool event_index = false;
  // This ring's part of the in-flight area, or null; in_flight_bytes() of the size says how long.
  std::byte* in_flight = nullptr;
  uint16_t in_flight_size = 0;  // of rings that the area was made for
};

// Owned and used by one thread at a time.
class Ring {
 public:
  enum class Taken { element, none, broken };

  // Null, with the reason in `why`, if the set-up is not sound. Elements that the in-flight area
  // says were taken and not given back come first from take().
  static std::unique_ptr<Ring> make(bool packed, const RingSetup& setup, std::string& why);
  virtual ~Ring() = default;
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // The next element. Once broken, a ring stays it.
  virtual Taken take(Element& element) = 0;
  // Whether take() would find something; cheap.
  virtual bool has_available() const noexcept = 0;
  // Gives an element back, with so many bytes written into it. The driver does not see it yet.
  virtual void give_back(const Element& element, uint32_t written) noexcept = 0;
  // Shows the driver what was given back. True if it wants to be notified.
  virtual bool publish() noexcept = 0;
  // Whether the driver shall notify of what it makes available. After switching it on, look again:
  // something may have come in between.
  virtual void want_notifications(bool on) noexcept = 0;
  // As in GET_VRING_BASE.
  virtual uint32_t base() const noexcept = 0;
  // The part of the guest's memory in which give_back() and publish() write, for the dirty log:
  // offset from the used ring's start.
  struct Written {
    uint64_t offset = 0;
    uint64_t bytes = 0;
  };
  virtual Written used_area() const noexcept = 0;

  // Why the ring is broken; empty while it is not.
  const std::string& problem() const noexcept { return problem_; }
  uint16_t size() const noexcept { return size_; }
  bool has_unpublished() const noexcept { return unpublished_ != 0; }

 protected:
  explicit Ring(const RingSetup& setup) noexcept;

  // A descriptor, read once: the driver may change it under us.
  struct Descriptor {
    uint64_t address = 0;
    uint32_t bytes = 0;
    uint16_t flags = 0;
    uint16_t next = 0;  // packed: the buffer id
  };
  static constexpr uint16_t kNext = VRING_DESC_F_NEXT;
  static constexpr uint16_t kWrite = VRING_DESC_F_WRITE;
  static constexpr uint16_t kIndirect = VRING_DESC_F_INDIRECT;

  // Both return false, with the ring broken, if the memory or the order is not sound.
  bool add_part(Element& element, const Descriptor& descriptor);
  // `linked`: descriptors of the table are linked by `next` (split), else they follow one another.
  bool add_indirect(Element& element, const Descriptor& table, bool linked);

  bool fail(const char* why);
  bool is_broken() const noexcept { return !problem_.empty(); }

  const GuestMemory& memory_;
  const uint16_t size_;
  const bool event_index_;
  unsigned unpublished_ = 0;

 private:
  std::string problem_;
};

// Loads and stores of memory that the other side uses at the same time.
template <class T>
T shared_load(const T& place) noexcept {
  return __atomic_load_n(&place, __ATOMIC_RELAXED);
}
template <class T>
T shared_load_acquire(const T& place) noexcept {
  return __atomic_load_n(&place, __ATOMIC_ACQUIRE);
}
template <class T>
void shared_store(T& place, T value) noexcept {
  __atomic_store_n(&place, value, __ATOMIC_RELAXED);
}
template <class T>
void shared_store_release(T& place, T value) noexcept {
  __atomic_store_n(&place, value, __ATOMIC_RELEASE);
}

}  // namespace strata::virtio
