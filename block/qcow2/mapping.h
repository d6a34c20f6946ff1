// SPDX-License-Identifier: GPL-2.0-or-later
//
// What an L2 table says about a range of the virtual disk.
#pragma once

#include <span>
#include <variant>

#include "block/qcow2/format/entries.h"

namespace strata::qcow2 {

// The backing file decides.
struct Unallocated {
  HostOffset host;  // of the first byte, where other subclusters of the cluster are not; else 0
};
struct Zero {
  HostOffset host;  // of the first byte, where the cluster is kept for later; else 0
};
struct Data {
  HostOffset host;        // of the first byte asked for
  bool in_place = false;  // nobody else refers to it: it may be written to
};
// The whole cluster, of which the range is a part.
struct Compressed {
  CompressedExtent extent;
};
// The entry makes no sense; the image is corrupt.
struct Invalid {
  uint64_t entry = 0;
};

using Mapping = std::variant<Unallocated, Zero, Data, Compressed, Invalid>;

// The same for `bytes` bytes from where it was asked for.
struct Run {
  Mapping what;
  uint64_t bytes = 0;

  template <class Kind>
  const Kind* get_if() const noexcept {
    return std::get_if<Kind>(&what);
  }
};

struct MappingRules {
  Geometry geometry;
  unsigned version = 3;
  bool data_file = false;
};

// The longest run from `offset` on, at most `bytes` long, that the entries tell of; the first of
// them is that of the offset's cluster. At least a subcluster's rest; a compressed cluster is a run
// of its own.
Run map_run(const MappingRules& rules, std::span<const L2Entry> entries, GuestOffset offset,
            uint64_t bytes) noexcept;

}  // namespace strata::qcow2
