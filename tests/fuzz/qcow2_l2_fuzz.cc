// SPDX-License-Identifier: GPL-2.0-or-later
//
// L1 and L2 entries: whatever they hold, a run is what each of its subclusters says alone, and as
// long as it can be; and a table that is remembered in a few words comes back as it was.
#include <vector>

#include "block/qcow2/compact_slices.h"
#include "block/qcow2/mapping.h"
#include "block/qcow2/slice_memory.h"
#include "tests/fuzz/fuzz.h"

using namespace strata;
using namespace strata::qcow2;
using fuzz::require;

namespace {

constexpr size_t kMostEntries = 512;

std::vector<L2Entry> read_entries(ConstBytes bytes, const Geometry& geometry) {
  std::vector<L2Entry> entries;
  size_t step = geometry.l2_entry_size();
  for (size_t at = 0; at + step <= bytes.size() && entries.size() < kMostEntries; at += step) {
    entries.push_back({load_be<uint64_t>(bytes, at),
                       geometry.extended_l2() ? load_be<uint64_t>(bytes, at + 8) : 0});
  }
  return entries;
}

void check_entry(const L2Entry& entry, const Geometry& geometry) {
  require(entry.offset().value < kMaxHostOffset);
  if (!entry.is_compressed()) return;
  CompressedExtent extent = entry.extent(geometry);
  require(extent.bytes >= 1 && extent.bytes <= 2 * geometry.cluster_size());
  require(extent.offset.value < kMaxHostOffset);
  require(L2Entry::compressed(extent, geometry).extent(geometry) == extent);
  L1Entry l1(entry.raw);
  require(L1Entry::of(l1.offset(), l1.copied()).offset() == l1.offset());
}

// Whether `single`, `further` bytes behind the start of `run`, is what the run says of it.
bool agrees(const Mapping& run, const Mapping& single, uint64_t further) {
  if (run.index() != single.index()) return false;
  if (const auto* data = std::get_if<Data>(&run)) {
    const Data& one = std::get<Data>(single);
    return one.host == data->host + further && one.in_place == data->in_place;
  }
  auto goes_on = [further](HostOffset host, HostOffset one) {
    return host.value == 0 ? one.value == 0 : one == host + further;
  };
  if (const auto* zero = std::get_if<Zero>(&run))
    return goes_on(zero->host, std::get<Zero>(single).host);
  if (const auto* nothing = std::get_if<Unallocated>(&run))
    return goes_on(nothing->host, std::get<Unallocated>(single).host);
  if (const auto* extent = std::get_if<Compressed>(&run))
    return extent->extent == std::get<Compressed>(single).extent;
  return true;
}

void check_runs(const MappingRules& rules, std::span<const L2Entry> entries, GuestOffset start) {
  const Geometry& geometry = rules.geometry;
  uint64_t unit = geometry.subcluster_size();
  GuestCluster first = geometry.cluster_of(start);
  uint64_t end = geometry.offset_of(first + entries.size()).value;
  auto single_at = [&](uint64_t at) {
    uint64_t index = geometry.cluster_of(GuestOffset(at)) - first;
    return map_run(rules, entries.subspan(index), GuestOffset(at), 1).what;
  };
  for (uint64_t at = start.value; at < end;) {
    uint64_t index = geometry.cluster_of(GuestOffset(at)) - first;
    Run run = map_run(rules, entries.subspan(index), GuestOffset(at), end - at);
    require(run.bytes != 0 && run.bytes <= end - at);
    for (uint64_t further = 0; further < run.bytes; further += unit - (at + further) % unit)
      require(agrees(run.what, single_at(at + further), further));
    at += run.bytes;
    bool stands_alone = run.get_if<Compressed>() != nullptr || run.get_if<Invalid>() != nullptr;
    require(stands_alone || at >= end || !agrees(run.what, single_at(at), run.bytes));
  }
}

void check_compact(const Geometry& geometry, std::span<const L2Entry> entries) {
  CompactSlices compact;
  compact.configure(geometry, 16384);
  size_t width = geometry.l2_entry_size() / 8;
  std::vector<uint64_t> words(entries.size() * width);
  for (size_t i = 0; i < entries.size(); ++i) {
    store_word(words[i * width], entries[i].raw);
    if (width == 2) store_word(words[i * width + 1], entries[i].bitmap);
  }
  compact.put(SliceIndex(7), words.data(), entries.size());
  std::vector<L2Entry> out(entries.size());
  if (!compact.try_read(SliceIndex(7), 0, out)) return;
  require(std::equal(out.begin(), out.end(), entries.begin()));
  std::vector<uint64_t> taken(words.size());
  require(compact.take(SliceIndex(7), taken.data(), entries.size()) && taken == words);
  require(!compact.try_read(SliceIndex(7), 0, out));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  auto shape = input.take<uint8_t>();
  auto choice = input.take<uint8_t>();
  auto start = input.take<uint32_t>();
  unsigned bits = kMinClusterBits + shape % (kMaxClusterBits - kMinClusterBits + 1);
  bool extended = (choice & 1) != 0 && bits >= kMinExtendedClusterBits;
  MappingRules rules{Geometry(bits, 4, extended), (choice & 2) != 0 ? 2u : 3u, (choice & 4) != 0};
  std::vector<L2Entry> entries = read_entries(input.rest(), rules.geometry);
  if (entries.empty()) return 0;
  for (const L2Entry& entry : entries) check_entry(entry, rules.geometry);
  check_runs(rules, entries, GuestOffset(start));
  check_compact(rules.geometry, entries);
  return 0;
}
