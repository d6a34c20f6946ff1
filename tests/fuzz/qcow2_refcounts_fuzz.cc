// SPDX-License-Identifier: GPL-2.0-or-later
//
// Refcount tables and blocks of all widths, and the counts that a check makes for itself: they keep
// what is put into them, and nothing beside it changes.
#include <map>
#include <vector>

#include "block/qcow2/format/entries.h"
#include "block/qcow2/format/refcount_block.h"
#include "block/qcow2/reference_counts.h"
#include "tests/fuzz/fuzz.h"

using namespace strata;
using namespace strata::qcow2;
using fuzz::require;

namespace {

void check_block(ConstBytes bytes, unsigned order) {
  Geometry geometry(9, order, false);
  std::vector<std::byte> block(geometry.cluster_size());
  std::copy_n(bytes.begin(), std::min(bytes.size(), block.size()), block.begin());
  std::vector<std::byte> again(block.size());
  for (uint64_t i = 0; i < geometry.refcount_block_entries(); ++i) {
    uint64_t count = load_refcount(block, order, i);
    require(count <= geometry.max_refcount());
    store_refcount(again, order, i, count);
    require(load_refcount(again, order, i) == count);
  }
  require(again == block);
}

// The bytes as a row of changes: which entry, and what it becomes.
void check_changes(ConstBytes bytes, unsigned order) {
  Geometry geometry(9, order, false);
  std::vector<std::byte> block(geometry.cluster_size());
  std::map<uint64_t, uint64_t> model;
  for (size_t at = 0; at + 10 <= bytes.size(); at += 10) {
    uint64_t index = load_be<uint16_t>(bytes, at) % geometry.refcount_block_entries();
    uint64_t count = load_be<uint64_t>(bytes, at + 2) & geometry.max_refcount();
    store_refcount(block, order, index, count);
    model[index] = count;
  }
  for (uint64_t i = 0; i < geometry.refcount_block_entries(); ++i) {
    auto known = model.find(i);
    require(load_refcount(block, order, i) == (known == model.end() ? 0 : known->second));
  }
}

void check_table(ConstBytes bytes) {
  for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
    RefcountTableEntry entry{load_be<uint64_t>(bytes, at)};
    require(entry.offset().value % 512 == 0);
    require(entry.has_reserved_bits() == (entry.raw % 512 != 0));
  }
}

void check_counting(ConstBytes bytes, unsigned order) {
  constexpr uint64_t kClusters = 3 * ReferenceCounts::kClustersPerPage;
  const uint64_t max = Geometry(9, order, false).max_refcount();
  ReferenceCounts counts;
  counts.reset(kClusters, max);
  std::map<uint64_t, uint64_t> model;
  for (size_t at = 0; at + 10 <= bytes.size(); at += 10) {
    uint64_t cluster = load_be<uint16_t>(bytes, at) % kClusters;
    auto number = load_be<uint64_t>(bytes, at + 2);
    uint64_t& known = model[cluster];
    if (number % 2 == 0) {
      bool fits = number <= max - known;
      require(counts.add(cluster, number) == fits);
      known = fits ? known + number : max;
    } else {
      known = std::min(number, max);
      counts.set(cluster, known);
    }
    require(counts.get(cluster) == known);
  }
  uint64_t used = 0;
  for (uint64_t i = counts.next_used(0, kClusters); i < kClusters;
       i = counts.next_used(i + 1, kClusters))
    used += counts.get(i) != 0 ? 1 : 0;
  uint64_t expected = 0;
  for (const auto& [cluster, count] : model) {
    require(counts.get(cluster) == count);
    expected += count != 0 ? 1 : 0;
  }
  require(used == expected && counts.any(0, kClusters) == (expected != 0));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  unsigned order = input.take<uint8_t>() % (kMaxRefcountOrder + 1);
  check_block(input.rest(), order);
  check_changes(input.rest(), order);
  check_table(input.rest());
  check_counting(input.rest(), order);
  return 0;
}
