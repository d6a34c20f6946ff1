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

// Which blocks of the new width are needed for what the present ones tell of.
std::set<uint64_t> Image::blocks_of_width(const Geometry& wanted) const {
  std::set<uint64_t> needed;
  uint64_t in_old = geometry_.refcount_block_entries();
  uint64_t in_new = wanted.refcount_block_entries();
  const std::vector<uint64_t>& table = refcounts_.table();
  for (uint64_t i = 0; i < table.size(); ++i) {
    if (RefcountTableEntry{table[i]}.offset().value == 0) continue;
    for (uint64_t block = i * in_old / in_new; block <= ((i + 1) * in_old - 1) / in_new; ++block)
      needed.insert(block);
  }
  if (needed.empty()) needed.insert(0);
  return needed;
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
Task<Status> Image::write_structure(const Geometry& wanted, const std::set<uint64_t>& blocks,
                                    HostCluster first, const AmendProgress& progress) {
  uint64_t cluster = geometry_.cluster_size();
  uint64_t table_clusters = geometry_.clusters_for((*blocks.rbegin() + 1) * 8);
  std::vector<std::byte> table(table_clusters * cluster);
  std::vector<std::byte> block(cluster);
  HostCluster place = first + table_clusters;
  uint64_t done = 0;
  for (uint64_t index : blocks) {
    std::fill(block.begin(), block.end(), std::byte{0});
    Status status = co_await pack_block(wanted, index, block);
    if (status.ok()) status = co_await file_.write(geometry_.offset_of(place), block);
    if (!status.ok()) co_return status;
    store_be<uint64_t>(table, index * 8, geometry_.offset_of(place).value);
    place = place + 1;
    progress(++done, blocks.size());
  }
  Status status = co_await file_.write(geometry_.offset_of(first), table);
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

Task<void> Image::change_refcount_width(unsigned order, AmendProgress progress) {
  check(co_await before_first_write(), kFailed);
  check(co_await settle(), kFailed);
  // Each block has a cluster of its own, or going through them would never end.
  if (count_blocks(refcounts_.table()) > geometry_.clusters_for(file_.length()))
    check(Status::error(EFBIG), kFailed);
  Geometry wanted(header_.cluster_bits, order, geometry_.extended_l2());
  HostCluster first;
  uint64_t clusters = 0;
  std::set<uint64_t> blocks;
  // The place for the new structure is itself counted, which may take a block more.
  for (uint64_t most = 0;; most = clusters) {
    blocks = blocks_of_width(wanted);
    uint64_t table_bytes = (*blocks.rbegin() + 1) * 8;
    if (table_bytes > kMaxRefcountTableBytes) check(Status::error(EFBIG), kFailed);
    clusters = std::max(most, geometry_.clusters_for(table_bytes) + blocks.size());
    Mutex::Lock lock = co_await metadata_.lock();
    Result<HostCluster> place = co_await allocate_clusters(clusters);
    if (!place) check(place.status(), kFailed);
    refcounts_.take_fresh(*place, clusters);
    lock.unlock();
    first = *place;
    blocks = blocks_of_width(wanted);
    if (geometry_.clusters_for((*blocks.rbegin() + 1) * 8) + blocks.size() <= clusters) break;
    free_later(first, clusters, FreedBy::other);
    check(co_await settle(), kFailed);
    ++clusters;
  }
  Allocation allocation(*this, first, clusters);
  check(co_await settle(), kFailed);
  uint64_t table_clusters = geometry_.clusters_for((*blocks.rbegin() + 1) * 8);
  check(co_await write_structure(wanted, blocks, first, progress), kFailed);
  std::vector<HostCluster> old;
  for (uint64_t entry : refcounts_.table())
    if (HostOffset at = RefcountTableEntry{entry}.offset(); at.value != 0)
      old.push_back(geometry_.cluster_of(at));
  HostCluster old_table = geometry_.cluster_of(refcounts_.table_offset());
  uint64_t old_table_clusters = refcounts_.table_clusters();
  Status status = co_await adopt_structure(first, table_clusters, order);
  allocation.linked();
  check(status, kFailed);
  uint64_t used = table_clusters + blocks.size();
  free_later(first + used, clusters - used, FreedBy::other);
  for (HostCluster block : old) free_later(block, 1, FreedBy::other);
  free_later(old_table, old_table_clusters, FreedBy::other);
  check(co_await settle(), kFailed);
}

}  // namespace strata::qcow2
