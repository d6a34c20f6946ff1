// SPDX-License-Identifier: GPL-2.0-or-later
//
// Refcounts of another width: a second structure of blocks and table is written beside the one in
// use, and the header decides which of the two it is. The clusters of either are counted in both;
// those of the loser are given back last.
#include <algorithm>
#include <cerrno>
#include <set>

#include "block/base/error.h"
#include "block/qcow2/amend.h"
#include "block/qcow2/format/refcount_block.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {
namespace {

void check(Status status, const char* what) {
  if (!status.ok()) throw Error::from_errno(status.error_number(), "{}", what);
}

constexpr char kFailed[] = "Failed to change the refcount width";

uint64_t count_blocks(const std::vector<uint64_t>& table) noexcept {
  return static_cast<uint64_t>(std::count_if(table.begin(), table.end(), [](uint64_t entry) {
    return RefcountTableEntry{entry}.offset().value != 0;
  }));
}

}  // namespace

// Which blocks of the new width are needed for what is in use.
Task<Result<std::set<uint64_t>>> Image::blocks_of_width(const Geometry& wanted) {
  std::set<uint64_t> needed{0};
  const uint64_t in_old = geometry_.refcount_block_entries();
  const uint64_t in_new = wanted.refcount_block_entries();
  const std::vector<uint64_t>& table = refcounts_.table();
  for (uint64_t i = 0; i < table.size(); ++i) {
    if (RefcountTableEntry{table[i]}.offset().value == 0) continue;
    for (uint64_t block = i * in_old / in_new; block <= ((i + 1) * in_old - 1) / in_new; ++block) {
      if (needed.contains(block)) continue;
      uint64_t first = std::max(i * in_old, block * in_new);
      uint64_t end = std::min((i + 1) * in_old, (block + 1) * in_new);
      Mutex::Lock lock = co_await metadata_.lock();
      Result<uint64_t> used = co_await refcounts_.count_used(HostCluster(first), end - first, 1);
      if (!used) co_return used.status();
      if (*used != 0) needed.insert(block);
    }
  }
  co_return needed;
}

Task<Status> Image::pack_block(const Geometry& wanted, uint64_t index, Bytes into) {
  uint64_t entries = wanted.refcount_block_entries();
  uint64_t limit = refcounts_.table().size() * geometry_.refcount_block_entries();
  Mutex::Lock lock = co_await metadata_.lock();
  for (uint64_t i = 0; i < entries && index * entries + i < limit; ++i) {
    HostCluster cluster(index * entries + i);
    Result<uint64_t> count = co_await refcounts_.get(cluster);
    if (!count) co_return count.status();
    if (*count > wanted.max_refcount())
      throw Error(
          "Cannot decrease refcount entry width to {} bits: Cluster at offset {:#x} has a refcount "
          "of {}",
          wanted.refcount_bits(), geometry_.offset_of(cluster).value, *count);
    store_refcount(into, wanted.refcount_order(), i, *count);
  }
  co_return Status();
}

// All blocks of the new structure and its table, into clusters that are allocated for them.
Task<Status> Image::write_structure(const Geometry& wanted, const NewStructure& structure,
                                    const AmendProgress& progress) {
  const std::set<uint64_t>& blocks = structure.blocks;
  uint64_t cluster = geometry_.cluster_size();
  uint64_t table_clusters = geometry_.clusters_for((*blocks.rbegin() + 1) * 8);
  std::vector<std::byte> table(table_clusters * cluster);
  std::vector<std::byte> block(cluster);
  HostCluster place = structure.first + table_clusters;
  uint64_t done = (structure.walks - 1) * blocks.size();
  for (uint64_t index : blocks) {
    std::fill(block.begin(), block.end(), std::byte{0});
    Status status = co_await pack_block(wanted, index, block);
    if (status.ok()) status = co_await file_.write(geometry_.offset_of(place), block);
    if (!status.ok()) co_return status;
    store_be<uint64_t>(table, index * 8, geometry_.offset_of(place).value);
    place = place + 1;
    progress(++done, structure.walks * blocks.size());
  }
  Status status = co_await file_.write(geometry_.offset_of(structure.first), table);
  if (status.ok()) status = co_await file_.flush();
  co_return status;
}

// Makes the header point to the new structure and the image use it.
Task<Status> Image::adopt_structure(HostCluster first, uint64_t table_clusters, unsigned order) {
  Mutex::Lock lock = co_await writing_back_.lock();
  Header before = header_;
  header_.refcount_table_offset = geometry_.offset_of(first).value;
  header_.refcount_table_clusters = static_cast<uint32_t>(table_clusters);
  header_.refcount_order = order;
  Status status = co_await write_header();
  if (status.ok()) status = co_await file_.flush();
  if (!status.ok()) {
    header_ = before;
    co_return status;
  }
  geometry_ = header_.geometry();
  Mutex::Lock metadata = co_await metadata_.lock();
  status = co_await load_refcounts();
  if (!status.ok()) unusable_ = true;
  co_return status;
}

// The place is itself counted, which may take a block more, and so another place.
Task<Status> Image::place_structure(const Geometry& wanted, NewStructure& structure,
                                    const AmendProgress& progress) {
  uint64_t done = 0;
  for (;;) {
    Result<std::set<uint64_t>> blocks = co_await blocks_of_width(wanted);
    if (!blocks) co_return blocks.status();
    structure.blocks = std::move(*blocks);
    progress(++done, structure.walks);
    uint64_t table_bytes = (*structure.blocks.rbegin() + 1) * 8;
    if (table_bytes > kMaxRefcountTableBytes) co_return Status::error(EFBIG);
    uint64_t needed = geometry_.clusters_for(table_bytes) + structure.blocks.size();
    if (needed <= structure.clusters) co_return Status();
    if (structure.clusters != 0) {
      free_later(structure.first, structure.clusters, FreedBy::other);
      structure.clusters = 0;
      Status status = co_await settle();
      if (!status.ok()) co_return status;
      progress(done, ++structure.walks);
    }
    Mutex::Lock lock = co_await metadata_.lock();
    Result<HostCluster> place = co_await allocate_clusters(needed);
    if (!place) co_return place.status();
    refcounts_.take_fresh(*place, needed);
    structure.first = *place;
    structure.clusters = needed;
  }
}

Task<void> Image::change_refcount_width(unsigned order, AmendProgress progress) {
  check(co_await before_first_write(), kFailed);
  check(co_await settle(), kFailed);
  // Each block has a cluster of its own, or going through them would never end.
  if (count_blocks(refcounts_.table()) > geometry_.clusters_for(file_.length()))
    check(Status::error(EFBIG), kFailed);
  Geometry wanted(header_.cluster_bits, order, geometry_.extended_l2());
  NewStructure structure;
  Status placed = co_await place_structure(wanted, structure, progress);
  const HostCluster first = structure.first;
  const uint64_t clusters = structure.clusters;
  Allocation allocation(*this, first, clusters);
  if (!placed.ok() && !refcounts_.corruption().empty()) {
    signal_refcounts();
    (void)co_await write_back();  // says so in the header
    throw Error("Image is corrupt (unaligned refblock offset)");
  }
  check(placed, kFailed);
  check(co_await settle(), kFailed);
  uint64_t table_clusters = geometry_.clusters_for((*structure.blocks.rbegin() + 1) * 8);
  check(co_await write_structure(wanted, structure, progress), kFailed);
  std::vector<HostCluster> old;
  for (uint64_t entry : refcounts_.table())
    if (HostOffset at = RefcountTableEntry{entry}.offset(); at.value != 0)
      old.push_back(geometry_.cluster_of(at));
  HostCluster old_table = geometry_.cluster_of(refcounts_.table_offset());
  uint64_t old_table_clusters = refcounts_.table_clusters();
  Status status = co_await adopt_structure(first, table_clusters, order);
  allocation.linked();
  check(status, kFailed);
  uint64_t used = table_clusters + structure.blocks.size();
  free_later(first + used, clusters - used, FreedBy::other);
  for (HostCluster block : old) free_later(block, 1, FreedBy::other);
  free_later(old_table, old_table_clusters, FreedBy::other);
  check(co_await settle(), kFailed);
}

}  // namespace strata::qcow2
