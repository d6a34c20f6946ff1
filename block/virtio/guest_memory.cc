// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/virtio/guest_memory.h"

#include <algorithm>
#include <cstring>

#include "block/base/error.h"
#include "block/base/math.h"

namespace strata::virtio {
namespace {

bool overlap(uint64_t a, uint64_t b, uint64_t a_size, uint64_t b_size) noexcept {
  return a < b + b_size && b < a + a_size;
}

void insert(std::vector<Region>& regions, Region region) {
  auto place =
      std::ranges::upper_bound(regions, region.description.guest_address, {},
                               [](const Region& known) { return known.description.guest_address; });
  regions.insert(place, std::move(region));
}

void check(const RegionDescription& region) {
  bool sound = region.size != 0 && checked_add(region.guest_address, region.size) &&
               checked_add(region.user_address, region.size) &&
               checked_add(region.mmap_offset, region.size);
  if (!sound)
    throw Error("Memory region at guest address {:#x} with {} bytes is invalid",
                region.guest_address, region.size);
}

}  // namespace

void GuestMemory::add(const RegionDescription& description, int fd) {
  check(description);
  if (regions_.size() >= kMostRegions) throw Error("More than {} memory regions", kMostRegions);
  if (overlaps(description))
    throw Error("Memory region at guest address {:#x} overlaps another", description.guest_address);
  auto mapping = std::make_shared<const MappedFile>(fd, description.mmap_offset, description.size);
  insert(regions_, Region{description, std::move(mapping)});
}

bool GuestMemory::overlaps(const RegionDescription& description) const noexcept {
  return std::ranges::any_of(regions_, [&](const Region& known) {
    const RegionDescription& other = known.description;
    return overlap(other.guest_address, description.guest_address, other.size, description.size);
  });
}

bool GuestMemory::remove(const RegionDescription& description) {
  return std::erase_if(regions_, [&](const Region& region) {
           const RegionDescription& known = region.description;
           return known.guest_address == description.guest_address &&
                  known.user_address == description.user_address && known.size == description.size;
         }) != 0;
}

const Region* GuestMemory::find_known(uint64_t address) const noexcept {
  // Guests have few regions, and nearly all their memory in the first or the last of them.
  size_t low = 0;
  size_t high = regions_.size();
  while (low < high) {
    size_t middle = (low + high) / 2;
    const Region& region = regions_[middle];
    if (address < region.description.guest_address) {
      high = middle;
    } else if (uint64_t into = address - region.description.guest_address;
               into < region.description.size) {
      return &region;
    } else {
      low = middle + 1;
    }
  }
  return nullptr;
}

const Region* GuestMemory::find_or_fetch(uint64_t address) const noexcept {
  const Region* known = find_known(address);
  if (known != nullptr || source_ == nullptr || regions_.size() >= kMostRegions) return known;
  std::optional<Region> found = source_->find_region(address);
  if (!found || overlaps(found->description)) return nullptr;
  insert(regions_, *std::move(found));
  return find_known(address);
}

GuestMemory::Piece GuestMemory::find(uint64_t address, Use use) const noexcept {
  const Region* region = find_or_fetch(address);
  if (region == nullptr || (use == Use::write && !region->writable)) return {};
  uint64_t into = address - region->description.guest_address;
  return {region->data() + into, region->description.size - into};
}

bool GuestMemory::read(uint64_t address, void* into, size_t bytes) const noexcept {
  auto* out = static_cast<std::byte*>(into);
  return for_each_piece(address, bytes, Use::read, [&out](const std::byte* data, size_t size) {
    std::memcpy(out, data, size);
    out += size;
    return true;
  });
}

std::byte* GuestMemory::at_user_address(uint64_t address, uint64_t bytes, size_t alignment,
                                        Use use) const noexcept {
  if (source_ != nullptr) find_or_fetch(address);
  for (const Region& region : regions_) {
    const RegionDescription& known = region.description;
    if (address < known.user_address) continue;
    uint64_t into = address - known.user_address;
    if (into >= known.size || bytes > known.size - into) continue;
    if (use == Use::write && !region.writable) return nullptr;
    std::byte* data = region.data() + into;
    return reinterpret_cast<uintptr_t>(data) % alignment == 0 ? data : nullptr;
  }
  return nullptr;
}

std::optional<uint64_t> GuestMemory::guest_address(const std::byte* data) const noexcept {
  for (const Region& region : regions_) {
    if (data >= region.data() && data < region.data() + region.description.size)
      return region.description.guest_address + static_cast<uint64_t>(data - region.data());
  }
  return std::nullopt;
}

bool GuestMemory::is_damaged() const noexcept {
  return std::ranges::any_of(regions_,
                             [](const Region& region) { return region.mapping->is_damaged(); });
}

}  // namespace strata::virtio
