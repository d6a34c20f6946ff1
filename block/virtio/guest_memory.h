// SPDX-License-Identifier: GPL-2.0-or-later
//
// The guest's memory as the front end has described it, and the one way from its addresses to ours.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "block/virtio/mapped_file.h"

namespace strata::virtio {

// A region in the words of the protocol; all in bytes.
struct RegionDescription {
  uint64_t guest_address = 0;  // as descriptors name it
  uint64_t size = 0;
  uint64_t user_address = 0;  // in the front end, as ring addresses name it
  uint64_t mmap_offset = 0;   // in the descriptor that comes with it

  friend bool operator==(const RegionDescription&, const RegionDescription&) = default;
};

struct Region {
  RegionDescription description;
  std::shared_ptr<const MappedFile> mapping;
  bool writable = true;  // by the device

  uint64_t guest_end() const noexcept { return description.guest_address + description.size; }
  std::byte* data() const noexcept { return mapping->data(); }
};

// Where memory is only known by asking for it.
class RegionSource {
 public:
  virtual ~RegionSource() = default;
  // The region that `address` of the guest lies in; nothing where there is none.
  virtual std::optional<Region> find_region(uint64_t address) noexcept = 0;
};

// What the device does with memory.
enum class Use : uint8_t { read, write };

// A value that is replaced, never changed, once requests use it; with a source, regions are added
// when they are first used, and it has one user. Regions do not overlap in the guest, and no
// address in them wraps.
class GuestMemory {
 public:
  // As many as the protocol's largest front ends use.
  static constexpr size_t kMostRegions = 509;

  GuestMemory() = default;
  // The source outlives it. Addresses of the front end are those of the guest.
  explicit GuestMemory(RegionSource& source) noexcept : source_(&source) {}

  // Maps `fd` and adds it. Throws Error, with the memory unchanged.
  void add(const RegionDescription& description, int fd);
  // The region is known by its addresses and its size. False if there is none.
  bool remove(const RegionDescription& description);

  const std::vector<Region>& regions() const noexcept { return regions_; }

  // Memory from one guest address on, up to the end of its region.
  struct Piece {
    std::byte* data = nullptr;
    uint64_t bytes = 0;
  };
  // Empty where there is no memory at `address` that may be used so.
  Piece find(uint64_t address, Use use = Use::read) const noexcept;

  // Calls `visit(std::byte*, size_t)` for each piece of [address, address + bytes), which may cross
  // from a region into one that follows it in the guest; false if not all of it is memory that may
  // be used so.
  template <class Visit>
  bool for_each_piece(uint64_t address, uint64_t bytes, Use use, Visit&& visit) const {
    if (bytes > UINT64_MAX - address) return false;
    while (bytes != 0) {
      Piece piece = find(address, use);
      if (piece.bytes == 0) return false;
      uint64_t size = piece.bytes < bytes ? piece.bytes : bytes;
      if (!visit(piece.data, static_cast<size_t>(size))) return false;
      address += size;
      bytes -= size;
    }
    return true;
  }

  // Copies out of the guest; false if not all of it is memory.
  bool read(uint64_t address, void* into, size_t bytes) const noexcept;

  // The memory at an address of the front end; null unless all of it lies in one region, which may
  // be used so, and it is aligned.
  std::byte* at_user_address(uint64_t address, uint64_t bytes, size_t alignment,
                             Use use) const noexcept;

  // The guest's address of memory that find() gave.
  std::optional<uint64_t> guest_address(const std::byte* data) const noexcept;

  // Whether a file was shortened under us.
  bool is_damaged() const noexcept;

 private:
  const Region* find_known(uint64_t address) const noexcept;
  const Region* find_or_fetch(uint64_t address) const noexcept;
  bool overlaps(const RegionDescription& description) const noexcept;

  RegionSource* source_ = nullptr;
  mutable std::vector<Region> regions_;  // by guest address
};

}  // namespace strata::virtio
