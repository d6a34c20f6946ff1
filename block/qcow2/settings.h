// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the user may choose about an open image, checked and with every default filled in.
#pragma once

#include <chrono>
#include <cstdint>

#include "block/base/enum_set.h"
#include "block/qcow2/format/header.h"
#include "qapi/types_blockdev.h"

namespace strata::qcow2 {

// Metadata that writes are checked not to hit by mistake.
enum class Guard : uint32_t {
  main_header = 1 << 0,
  active_l1 = 1 << 1,
  active_l2 = 1 << 2,
  refcount_block = 1 << 3,
  refcount_table = 1 << 4,
  snapshot_table = 1 << 5,
  inactive_l1 = 1 << 6,
  inactive_l2 = 1 << 7,  // read from the file for each check
  bitmap_directory = 1 << 8,
};
using Guards = EnumSet<Guard>;

struct Settings {
  bool lazy_refcounts = false;
  bool discard_request = true;
  bool discard_snapshot = true;
  bool discard_other = false;
  bool discard_no_unref = false;
  Guards guards;
  std::chrono::milliseconds clean_interval{0};  // 0: never
  uint64_t l2_slice_bytes = 0;
  uint64_t l2_slices = 0;
  uint64_t compact_bytes = 0;  // for slices that do not fit
  uint64_t refcount_blocks = 0;
};

// How much of the L2 tables is kept in memory by default, in bytes: `most`, or if that is less all
// that there can be, of which no more is in the file than `in_file`.
struct CacheBounds {
  static constexpr uint64_t kMost = 32 * 1024 * 1024;
  uint64_t most = kMost;
  uint64_t in_file = UINT64_MAX;
};

// Throws Error.
Settings settings_of(const qapi::BlockdevOptionsQcow2& options, const Header& header,
                     CacheBounds bounds = {});

}  // namespace strata::qcow2
