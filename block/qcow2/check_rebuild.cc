// SPDX-License-Identifier: GPL-2.0-or-later
//
// A new refcount structure from what was counted.
//
// It lies in clusters that nothing refers to, the old structure included; the header alone decides
// which of the two is valid. So whenever it ends, nothing is worse than it was.
#include <algorithm>
#include <cerrno>

#include "block/base/error.h"
#include "block/qcow2/checker.h"
#include "block/qcow2/format/refcount_block.h"

namespace strata::qcow2 {

HostCluster Check::take_free(uint64_t clusters) {
  uint64_t start = next_free_.value;
  uint64_t at = start;
  for (; at - start < clusters && at < counts_.size(); ++at) {
    if (counts_.get(at) != 0) start = at + 1;
  }
  if (start + clusters > counts_.size()) counts_.resize(start + clusters);
  for (uint64_t i = 0; i < clusters; ++i) counts_.set(start + i, 1);
  if (clusters == 1) next_free_ = HostCluster(start + 1);
  return HostCluster(start);
}

// Chooses the places. False: the table would be too large.
bool Check::plan_rebuild() {
  for (bool stable = false; !stable;) {
    stable = true;
    uint64_t last = 0;
    for (uint64_t first = 0; first < counts_.size();) {
      uint64_t index = geometry_.table_index(HostCluster(first)).value;
      uint64_t end = geometry_.first_cluster(TableIndex(index + 1)).value;
      if (counts_.any(first, std::min(end, counts_.size()))) {
        last = index;
        if (!new_blocks_.contains(index)) {
          new_blocks_[index] = take_free(1);
          stable = false;
        }
      }
      first = end;
    }
    uint64_t bytes = (last + 1) * 8;
    if (bytes > kMaxRefcountTableBytes) return false;
    uint64_t clusters = geometry_.clusters_for(bytes);
    if (clusters <= new_table_clusters_) continue;
    for (uint64_t i = 0; i < new_table_clusters_; ++i) counts_.set((new_table_ + i).value, 0);
    new_table_ = take_free(clusters);
    new_table_clusters_ = clusters;
    stable = false;
  }
  return true;
}

Task<Status> Check::rebuild() {
  new_blocks_.clear();
  new_table_clusters_ = 0;
  next_free_ = HostCluster(0);
  if (!plan_rebuild()) {
    failure("ERROR refcount table would be too large: " + Error::describe_errno(EFBIG));
    co_return Status::error(EFBIG);
  }
  Status status = co_await write_rebuilt_blocks();
  if (status.ok()) status = co_await image_.file_.flush();
  if (!status.ok()) {
    failure("ERROR writing refblock: " + Error::describe_errno(status.error_number()));
    co_return status;
  }
  status = co_await write_rebuilt_table();
  if (status.ok()) co_return co_await image_.load_refcounts();
  failure("ERROR writing reftable: " + Error::describe_errno(status.error_number()));
  co_return status;
}

Task<Status> Check::write_rebuilt_blocks() {
  for (const auto& [index, place] : new_blocks_) {
    block_.assign(geometry_.cluster_size(), std::byte{0});
    uint64_t first = geometry_.first_cluster(TableIndex(index)).value;
    uint64_t end = std::min(counts_.size(), first + geometry_.refcount_block_entries());
    for (uint64_t at = counts_.next_used(first, end); at < end; at = counts_.next_used(at + 1, end))
      store_refcount(block_, geometry_.refcount_order(), at - first, counts_.get(at));
    Status status = co_await image_.file_.write(geometry_.offset_of(place), block_);
    if (!status.ok()) co_return status;
  }
  co_return Status();
}

Task<Status> Check::write_rebuilt_table() {
  std::vector<std::byte> table(new_table_clusters_ << geometry_.cluster_bits());
  for (const auto& [index, place] : new_blocks_)
    store_be<uint64_t>(table, index * 8, geometry_.offset_of(place).value);
  HostOffset at = geometry_.offset_of(new_table_);
  Status status = co_await image_.file_.write(at, table);
  if (status.ok()) status = co_await image_.file_.flush();
  if (!status.ok()) co_return status;
  Header before = image_.header_;
  image_.header_.refcount_table_offset = at.value;
  image_.header_.refcount_table_clusters = static_cast<uint32_t>(new_table_clusters_);
  status = co_await image_.write_header();
  if (!status.ok()) image_.header_ = before;
  file_bytes_ = image_.file_.length();
  co_return status;
}

}  // namespace strata::qcow2
