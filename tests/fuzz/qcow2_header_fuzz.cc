// SPDX-License-Identifier: GPL-2.0-or-later
//
// The header of a qcow2 image and its extensions: nothing reads past its input, what is accepted is
// bounded, and can be written again and means the same then.
#include "block/qcow2/format/header.h"

#include "tests/fuzz/fuzz.h"

using namespace strata;
using namespace strata::qcow2;
using fuzz::require;

namespace {

void check_bounds(const Header& header) {
  const Geometry geometry = header.geometry();
  require(header.cluster_bits >= kMinClusterBits && header.cluster_bits <= kMaxClusterBits);
  require(header.refcount_order <= kMaxRefcountOrder);
  require(uint64_t{header.l1_size} * 8 <= kMaxL1Bytes);
  require(geometry.l1_entries_for(header.size) <= header.l1_size);
  require(uint64_t{header.refcount_table_clusters} * geometry.cluster_size() <=
          kMaxRefcountTableBytes);
  require(header.nb_snapshots <= kMaxSnapshots);
}

void write_again(const Header& header, const Extensions& extensions, const std::string& name) {
  Header again = header;
  auto encoded = encode_header(again, extensions, name);
  if (!encoded) return;
  auto reread = parse_header(*encoded);
  require(reread.ok());
  auto found = parse_extensions(*encoded, *reread);
  require(found.ok());
  require(*reread == again);
  require(again.unknown_fields == header.unknown_fields || header.version < 3);
  require(found->backing_format == extensions.backing_format);
  bool has_data_file = header.has(kIncompatibleDataFile);  // else its name is dropped
  require(found->data_file == (has_data_file ? extensions.data_file : std::nullopt));
  require(found->bitmaps == extensions.bitmaps);
  require(found->crypto == extensions.crypto);
  require(found->unknown == extensions.unknown);
  require(*parse_backing_name(*encoded, *reread) == name);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  auto choice = input.take<uint8_t>();
  ConstBytes bytes = input.rest();
  auto header = parse_header(bytes);
  if (!header) return 0;
  std::vector<std::byte> cluster(header->geometry().cluster_size());
  std::copy_n(bytes.begin(), std::min(bytes.size(), cluster.size()), cluster.begin());
  auto extensions = parse_extensions(cluster, *header);
  HeaderCheck how{.read_write = (choice & 1) != 0, .repairing = (choice & 2) != 0};
  if (!extensions || check_header(*header, *extensions, how)) return 0;
  if (!how.repairing) check_bounds(*header);
  auto name = parse_backing_name(cluster, *header);
  if (!name) return 0;
  require(name->size() <= kMaxBackingName);
  write_again(*header, *extensions, *name);
  return 0;
}
