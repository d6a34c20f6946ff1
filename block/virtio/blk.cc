// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/virtio/blk.h"

#include <algorithm>
#include <cstring>

#include "block/base/math.h"

namespace strata::virtio {
namespace {

// A device of QEMU's export has at most 128 segments, of which header and status take two.
constexpr uint32_t kSegments = 128 - 2;
constexpr uint32_t kSegmentBytes = 65536;

IoVector parts_of(const Element& element, size_t first, size_t count) noexcept {
  return IoVector(std::span<const iovec>(element.parts).subspan(first, count));
}

// The type word without the bits that only old devices looked at.
BlkCommand command_of(uint32_t type) noexcept {
  switch (type) {
    case VIRTIO_BLK_T_IN:
      return BlkCommand::read;
    case VIRTIO_BLK_T_OUT:
      return BlkCommand::write;
    case VIRTIO_BLK_T_FLUSH:
      return BlkCommand::flush;
    case VIRTIO_BLK_T_GET_ID:
      return BlkCommand::get_id;
    case VIRTIO_BLK_T_DISCARD:
      return BlkCommand::discard;
    case VIRTIO_BLK_T_WRITE_ZEROES:
      return BlkCommand::write_zeroes;
    default:
      return BlkCommand::unsupported;
  }
}

bool range_is_sound(uint64_t sector, uint64_t bytes, const BlkLimits& limits) noexcept {
  auto offset = checked_mul(sector, kBlkSector);
  if (!offset || bytes % kBlkSector != 0) return false;
  auto end = checked_add(*offset, bytes);
  return end && *end <= limits.bytes && *offset % limits.block_size == 0 &&
         bytes % limits.block_size == 0;
}

void check_transfer(BlkRequest& request, uint64_t sector, const BlkLimits& limits) noexcept {
  bool allowed = request.command == BlkCommand::read || limits.writable;
  if (allowed && range_is_sound(sector, request.data.size(), limits))
    request.offset = sector * kBlkSector;
  else
    request.verdict = VIRTIO_BLK_S_IOERR;
}

void check_range_command(BlkRequest& request, IoVector payload, const BlkLimits& limits) noexcept {
  virtio_blk_discard_write_zeroes segment;
  static_assert(sizeof segment == 16);
  if (!limits.writable || payload.size() != sizeof segment) {
    request.verdict = VIRTIO_BLK_S_IOERR;
    return;
  }
  payload.copy_to(&segment);
  bool is_discard = request.command == BlkCommand::discard;
  uint32_t known = is_discard ? 0 : uint32_t{VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP};
  uint64_t bytes = uint64_t{segment.num_sectors} * kBlkSector;
  if ((segment.flags & ~known) != 0) {
    request.verdict = VIRTIO_BLK_S_UNSUPP;
  } else if (segment.num_sectors > kMostDiscardSectors ||
             !range_is_sound(segment.sector, bytes, limits)) {
    request.verdict = VIRTIO_BLK_S_IOERR;
  } else {
    request.offset = segment.sector * kBlkSector;
    request.bytes = bytes;
    request.unmap = (segment.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) != 0;
  }
}

}  // namespace

BlkRequest parse_blk_request(const Element& element, const BlkLimits& limits) noexcept {
  BlkRequest request;
  size_t writable_parts = element.parts.size() - element.readable_parts;
  virtio_blk_outhdr header;
  static_assert(sizeof header == 16);
  if (element.writable == 0) return request;
  size_t last = element.parts.size() - 1;
  while (element.parts[last].iov_len == 0) --last;
  const iovec& end = element.parts[last];
  request.status = static_cast<std::byte*>(end.iov_base) + end.iov_len - 1;
  if (element.readable < sizeof header) {
    request.status = nullptr;
    return request;
  }
  IoVector readable = parts_of(element, 0, element.readable_parts);
  IoVector writable = parts_of(element, element.readable_parts, writable_parts);
  if (element.parts[0].iov_len >= sizeof header) [[likely]]
    std::memcpy(&header, element.parts[0].iov_base, sizeof header);
  else
    readable.slice(0, sizeof header).copy_to(&header);
  IoVector payload = readable.slice(sizeof header, element.readable - sizeof header);
  request.command = command_of(header.type);
  switch (request.command) {
    case BlkCommand::read:
      request.data = writable.slice(0, element.writable - 1);
      check_transfer(request, header.sector, limits);
      break;
    case BlkCommand::write:
      request.data = payload;
      check_transfer(request, header.sector, limits);
      break;
    case BlkCommand::get_id:
      request.data = writable.slice(0, element.writable - 1);
      break;
    case BlkCommand::discard:
    case BlkCommand::write_zeroes:
      check_range_command(request, payload, limits);
      break;
    case BlkCommand::flush:
      break;
    case BlkCommand::unsupported:
      request.verdict = VIRTIO_BLK_S_UNSUPP;
      break;
  }
  return request;
}

virtio_blk_config make_blk_config(const BlkShape& shape) noexcept {
  virtio_blk_config config{};
  config.capacity = shape.bytes / kBlkSector;
  config.size_max = kSegmentBytes;
  config.seg_max = kSegments;
  config.blk_size = shape.block_size;
  config.min_io_size = 1;
  config.opt_io_size = 1;
  config.wce = shape.write_cache;
  config.num_queues = shape.queues;
  config.max_discard_sectors = kMostDiscardSectors;
  config.max_discard_seg = 1;
  config.discard_sector_alignment = shape.block_size / uint32_t{kBlkSector};
  config.max_write_zeroes_sectors = kMostDiscardSectors;
  config.max_write_zeroes_seg = 1;
  config.write_zeroes_may_unmap = 1;
  return config;
}

}  // namespace strata::virtio
