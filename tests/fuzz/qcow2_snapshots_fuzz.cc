// SPDX-License-Identifier: GPL-2.0-or-later
//
// A snapshot table, entry by entry: nothing reads past its input, and what is accepted can be
// written again and is the same then.
#include "block/qcow2/format/snapshots.h"

#include "tests/fuzz/fuzz.h"

using namespace strata;
using namespace strata::qcow2;
using fuzz::require;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  auto disk_size = input.take<uint64_t>();
  ConstBytes bytes = input.rest();
  while (auto entry = parse_snapshot(bytes, disk_size)) {
    require(entry->bytes >= 40);
    std::vector<std::byte> written;
    append_snapshot(written, entry->snapshot);
    auto again = parse_snapshot(written, 0);
    require(again.ok() && again->bytes == written.size());
    // What an old entry does not tell is told now.
    Snapshot expected = entry->snapshot;
    expected.extra_data_size = std::max(expected.extra_data_size, 24u);
    require(again->snapshot == expected);
    if (entry->bytes >= bytes.size()) break;
    bytes = bytes.subspan(entry->bytes);
  }
  return 0;
}
