// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstddef>
#include <cstdint>

namespace strata {

// No request is longer than this, whatever a driver can take (as in QEMU: INT_MAX rounded down to a
// sector boundary).
inline constexpr uint64_t kMaxRequestBytes = 0x7fffffff & ~uint64_t{511};
// The largest image, in bytes; leaves room to round up without overflow.
inline constexpr uint64_t kMaxLength = INT64_MAX & ~uint64_t{(1u << 30) - 1};
inline constexpr uint64_t kSectorSize = 512;

// What requests to a driver must look like; block/io makes them so. All in bytes, 0 where there is
// no limit. Alignments are powers of two, the maximums multiples of the alignment they belong to.
struct Limits {
  uint32_t request_alignment = 1;  // of offset and length of reads and writes
  uint64_t max_transfer = 0;
  uint64_t optimal_transfer = 0;
  uint32_t pdiscard_alignment = 0;
  uint64_t max_pdiscard = 0;
  uint32_t pwrite_zeroes_alignment = 0;
  uint64_t max_pwrite_zeroes = 0;
  size_t min_memory_alignment = 1;
  size_t optimal_memory_alignment = 4096;
  int max_iov = 1024;
};

}  // namespace strata
