// SPDX-License-Identifier: GPL-2.0-or-later
//
// The codecs of the qcow2 format on the same bytes: nothing reads past its input, and what is
// accepted can be written again.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "block/qcow2/format/bitmaps.h"
#include "block/qcow2/format/entries.h"
#include "block/qcow2/format/header.h"
#include "block/qcow2/format/snapshots.h"

using namespace strata;
using namespace strata::qcow2;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void fuzz_header(ConstBytes bytes) {
  auto header = parse_header(bytes);
  if (!header) return;
  std::vector<std::byte> cluster(header->geometry().cluster_size());
  std::copy_n(bytes.begin(), std::min(bytes.size(), cluster.size()), cluster.begin());
  auto extensions = parse_extensions(cluster, *header);
  if (!extensions || check_header(*header, *extensions, {true, true})) return;
  auto name = parse_backing_name(cluster, *header);
  if (!name) return;
  Header again = *header;
  auto encoded = encode_header(again, *extensions, *name);
  if (!encoded) return;
  auto reread = parse_header(*encoded);
  require(reread.ok());
  auto found = parse_extensions(*encoded, *reread);
  require(found.ok());
  require(found->unknown == extensions->unknown && found->bitmaps == extensions->bitmaps);
  require(*parse_backing_name(*encoded, *reread) == *name);
}

void fuzz_entries(ConstBytes bytes) {
  for (size_t at = 0; at + 16 <= bytes.size(); at += 16) {
    L2Entry entry{load_be<uint64_t>(bytes, at), load_be<uint64_t>(bytes, at + 8)};
    for (bool extended : {false, true}) {
      Geometry geometry(14 + entry.raw % 8, 4, extended);
      (void)entry.subcluster(entry.bitmap % 32, geometry, extended);
      CompressedExtent extent = entry.extent(geometry);
      require(extent.bytes >= 1 && extent.bytes <= geometry.cluster_size() * 2);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  ConstBytes bytes = std::as_bytes(std::span(data + 1, size - 1));
  switch (data[0] % 4) {
    case 0:
      fuzz_header(bytes);
      break;
    case 1:
      fuzz_entries(bytes);
      break;
    case 2:
      if (auto entry = parse_snapshot(bytes, 1 << 20)) {
        std::vector<std::byte> again;
        append_snapshot(again, entry->snapshot);
        require(parse_snapshot(again, 1 << 20).ok());
      }
      break;
    default:
      if (auto found = parse_bitmap_directory(bytes, data[0], 1 << 30, Geometry(16, 4, false)))
        require(encode_bitmap_directory(*found).size() <= bytes.size() + 8);
  }
  return 0;
}
