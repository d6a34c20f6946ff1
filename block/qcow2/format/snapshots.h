// SPDX-License-Identifier: GPL-2.0-or-later
//
// The snapshot table.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "block/base/bytes.h"
#include "block/qcow2/format/geometry.h"

namespace strata::qcow2 {

struct Snapshot {
  HostOffset l1_offset;
  uint32_t l1_size = 0;  // entries
  std::string id;        // as far as QEMU would read it: up to a zero byte, if there is one
  std::string name;      // likewise
  uint32_t date_seconds = 0;
  uint32_t date_nanoseconds = 0;
  uint64_t vm_clock_ns = 0;
  uint64_t vm_state_size = 0;  // bytes
  uint64_t disk_size = 0;      // bytes
  uint64_t icount = UINT64_MAX;
  uint32_t extra_data_size = 24;              // as stored
  std::vector<std::byte> unknown_extra_data;  // behind what is known of it
  friend bool operator==(const Snapshot&, const Snapshot&) = default;
};

// Reads an entry from the front of `bytes` and says how long it is. `disk_size` is that of the
// image: entries without a size of their own are of that size. ENODATA: `bytes` ends too early.
struct SnapshotEntry {
  Snapshot snapshot;
  size_t bytes = 0;
};
Decoded<SnapshotEntry> parse_snapshot(ConstBytes bytes, uint64_t disk_size);

void append_snapshot(std::vector<std::byte>& out, const Snapshot& snapshot);

}  // namespace strata::qcow2
