// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/virtio/ring.h"

#include <bit>
#include <cstring>

#include "block/virtio/packed_ring.h"
#include "block/virtio/split_ring.h"

namespace strata::virtio {

static_assert(std::endian::native == std::endian::little, "rings of virtio 1 are little-endian");

std::unique_ptr<Ring> Ring::make(bool packed, const RingSetup& setup, std::string& why) {
  if (setup.size == 0 || setup.size > kMostRingSize) {
    why = "the size of the ring is invalid";
    return nullptr;
  }
  if (packed) return PackedRing::make(setup, why);
  return SplitRing::make(setup, why);
}

Ring::Ring(const RingSetup& setup) noexcept
    : memory_(*setup.memory), size_(setup.size), event_index_(setup.event_index) {}

bool Ring::fail(const char* why) {
  if (problem_.empty()) problem_ = why;
  return false;
}

bool Ring::add_part(Element& element, const Descriptor& descriptor) {
  bool writes = (descriptor.flags & kWrite) != 0;
  if (!writes && element.parts.size() != element.readable_parts)
    return fail("a readable descriptor follows a writable one");
  if (element.parts.size() >= kMostDescriptors) return fail("a chain is too long");
  bool inside =
      memory_.for_each_piece(descriptor.address, descriptor.bytes, writes ? Use::write : Use::read,
                             [&](std::byte* data, size_t size) {
                               element.parts.push_back({data, size});
                               return element.parts.size() <= kMostDescriptors;
                             });
  if (!inside) return fail("a descriptor points outside the guest's memory");
  if (writes) {
    element.writable += descriptor.bytes;
  } else {
    element.readable += descriptor.bytes;
    element.readable_parts = element.parts.size();
  }
  return true;
}

bool Ring::add_indirect(Element& element, const Descriptor& table, bool linked) {
  static_assert(sizeof(vring_desc) == 16 && sizeof(vring_packed_desc) == 16);
  if (table.bytes == 0 || table.bytes % sizeof(vring_desc) != 0)
    return fail("the size of an indirect table is invalid");
  uint32_t entries = table.bytes / uint32_t{sizeof(vring_desc)};
  // Nearly always it lies in one piece.
  GuestMemory::Piece whole = memory_.find(table.address);
  if (whole.bytes < table.bytes) whole.data = nullptr;
  uint32_t index = 0;
  for (size_t taken = 0;; ++taken) {
    if (taken == entries || taken == kMostDescriptors) return fail("an indirect chain is too long");
    Descriptor entry;
    vring_desc raw;
    uint64_t at = uint64_t{index} * sizeof raw;
    if (whole.data != nullptr)
      std::memcpy(&raw, whole.data + at, sizeof raw);
    else if (!memory_.read(table.address + at, &raw, sizeof raw))
      return fail("an indirect table lies outside the guest's memory");
    std::memcpy(&entry.address, &raw.addr, sizeof entry.address);
    entry.bytes = raw.len;
    if (linked) {
      entry.flags = raw.flags;
      entry.next = raw.next;
    } else {  // struct vring_packed_desc: the id, then the flags
      entry.flags = raw.next;
    }
    if ((entry.flags & kIndirect) != 0) return fail("an indirect table within another");
    if (!add_part(element, entry)) return false;
    if (linked) {
      if ((entry.flags & kNext) == 0) return true;
      index = entry.next;
      if (index >= entries) return fail("a descriptor's successor is outside the table");
    } else if (++index == entries) {
      return true;
    }
  }
}

}  // namespace strata::virtio
