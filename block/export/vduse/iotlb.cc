// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/vduse/iotlb.h"

#include <exception>

#include "block/base/error.h"
#include "block/base/log.h"

namespace strata::vduse {
namespace {

virtio::Region map(const Device::Memory& memory, uint64_t address) {
  uint64_t size = memory.last - memory.start + 1;
  if (address < memory.start || address > memory.last || size == 0 ||
      memory.start > UINT64_MAX - size)
    throw Error("the kernel gave memory from {:#x} to {:#x}", memory.start, memory.last);
  if ((memory.access & VDUSE_ACCESS_RO) == 0)
    throw Error("memory at {:#x} can only be written", memory.start);
  virtio::Region region;
  region.description = {memory.start, size, memory.start, memory.offset};
  region.writable = (memory.access & VDUSE_ACCESS_WO) != 0;
  region.mapping = std::make_shared<const virtio::MappedFile>(
      memory.fd.get(), memory.offset, size,
      virtio::MappedFile::Kind{.writable = region.writable, .kernels = true});
  return region;
}

}  // namespace

// Where there is no memory the ring says so; what cannot be used is worth a word.
std::optional<virtio::Region> Iotlb::find_region(uint64_t address) noexcept {
  Result<Device::Memory> memory = device_.find_memory(address);
  if (!memory) return std::nullopt;
  try {
    return map(*memory, address);
  } catch (const std::exception& error) {
    log_error("vduse-blk export '{}': address {:#x}: {}", export_id_, address, error.what());
    return std::nullopt;
  }
}

}  // namespace strata::vduse
