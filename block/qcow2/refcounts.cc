// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/refcounts.h"
#include "block/io/debug_event.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "block/qcow2/format/refcount_block.h"
#include "block/qcow2/hex.h"

namespace strata::qcow2 {

using qapi::BlkdebugEvent;

void Refcounts::configure(const Geometry& geometry, ImageFile file, std::vector<uint64_t> table,
                          HostOffset offset, RefcountTableOwner* owner) {
  geometry_ = geometry;
  file_ = file;
  owner_ = owner;
  table_ = std::move(table);
  for (uint64_t& entry : table_) entry = load_be<uint64_t>(reinterpret_cast<std::byte*>(&entry));
  table_offset_ = table_offset_on_disk_ = offset;
  table_on_disk_ = table_.size();
  dirty_table_pieces_.assign((table_.size() * 8 + kPieceBytes - 1) / kPieceBytes, false);
  blocks_.clear();
  hint_ = HostCluster(0);
  fresh_from_ = HostCluster(geometry.clusters_for(file.length()));
  free_byte_ = kNoBytes;
  table_dirty_ = any_dirty_ = false;
  corruption_.clear();
}

uint64_t Refcounts::value(const Block& block, BlockIndex index) const noexcept {
  return load_refcount(block.bytes, geometry_.refcount_order(), index.value);
}

void Refcounts::set(Block& block, BlockIndex index, uint64_t value) {
  store_refcount(block.bytes, geometry_.refcount_order(), index.value, value);
  uint64_t byte = (index.value << geometry_.refcount_order()) / 8;
  block.dirty_pieces[byte / kPieceBytes] = true;
  block.dirty = any_dirty_ = true;
}

void Refcounts::mark_all(Block& block) {
  block.dirty_pieces.assign((block.bytes.size() + kPieceBytes - 1) / kPieceBytes, true);
  block.dirty = any_dirty_ = true;
}

void Refcounts::evict_some() {
  while (blocks_.size() >= max_blocks_) {
    auto oldest = blocks_.end();
    for (auto it = blocks_.begin(); it != blocks_.end(); ++it) {
      if (it->second.dirty || it->second.writing != 0) continue;
      if (oldest == blocks_.end() || it->second.used < oldest->second.used) oldest = it;
    }
    if (oldest == blocks_.end()) return;
    blocks_.erase(oldest);
  }
}

void Refcounts::forget_unused() noexcept {
  std::erase_if(blocks_, [&](const auto& entry) {
    const Block& block = entry.second;
    return !block.dirty && block.writing == 0 && block.used <= cleaned_at_;
  });
  cleaned_at_ = clock_;
}

Task<Result<Refcounts::Block*>> Refcounts::load(TableIndex index) {
  if (index.value >= table_.size()) co_return static_cast<Block*>(nullptr);
  if (auto found = blocks_.find(index.value); found != blocks_.end()) {
    found->second.used = ++clock_;
    co_return &found->second;
  }
  HostOffset at = RefcountTableEntry{table_[index.value]}.offset();
  if (at.value == 0) co_return static_cast<Block*>(nullptr);
  if (!geometry_.is_cluster_aligned(at.value)) {
    corruption_ = fmt::format("Refblock offset {} unaligned (reftable index: {})", hex(at.value),
                              hex(index.value));
    co_return Status::error(EIO);
  }
  if (at.value > INT64_MAX - geometry_.cluster_size()) co_return Status::error(EIO);
  evict_some();
  std::vector<std::byte> bytes(geometry_.cluster_size());
  Status status = co_await file_.read(at, bytes);
  if (!status.ok()) co_return status;
  Block& block = blocks_[index.value];
  block.dirty_pieces.assign((bytes.size() + kPieceBytes - 1) / kPieceBytes, false);
  block.bytes = std::move(bytes);
  block.at = at;
  block.used = ++clock_;
  co_return &block;
}

Task<Result<uint64_t>> Refcounts::get(HostCluster cluster) {
  Result<Block*> block = co_await load(geometry_.table_index(cluster));
  if (!block) co_return block.status();
  if (*block == nullptr) co_return uint64_t{0};
  co_return value(**block, geometry_.block_index(cluster));
}

Task<Result<uint64_t>> Refcounts::count_used(HostCluster first, uint64_t clusters, uint64_t most) {
  uint64_t used = 0;
  for (HostCluster at = first; at < first + clusters && used < most;) {
    Result<Block*> block = co_await load(geometry_.table_index(at));
    if (!block) co_return block.status();
    HostCluster end =
        std::min(first + clusters, geometry_.first_cluster(geometry_.table_index(at) + 1));
    for (; *block != nullptr && at < end && used < most; ++at)
      used += value(**block, geometry_.block_index(at)) != 0;
    at = end;
  }
  co_return used;
}

// The first `clusters` free clusters in a row at or behind `from`.
Task<Result<HostCluster>> Refcounts::find_free(HostCluster from, uint64_t clusters) {
  const HostCluster end = geometry_.cluster_of(HostOffset(kMaxHostOffset));
  HostCluster start = from;
  HostCluster at = from;
  while (at - start < clusters) {
    if (at >= end) co_return Status::error(EFBIG);
    TableIndex index = geometry_.table_index(at);
    Result<Block*> block = co_await load(index);
    if (!block) co_return block.status();
    HostCluster block_end = geometry_.first_cluster(index + 1);
    if (*block == nullptr) {
      at = block_end;
      continue;
    }
    for (; at < block_end && at - start < clusters; ++at) {
      if (value(**block, geometry_.block_index(at)) != 0) start = at + 1;
    }
  }
  co_return start;
}

Refcounts::Block& Refcounts::add_block(TableIndex index, HostCluster at) {
  evict_some();
  Block& block = blocks_[index.value];
  block.bytes.assign(geometry_.cluster_size(), std::byte{0});
  block.at = geometry_.offset_of(at);
  block.used = ++clock_;
  block.on_disk = false;
  mark_all(block);
  table_[index.value] = block.at.value;
  dirty_table_pieces_[index.value * 8 / kPieceBytes] = true;
  table_dirty_ = true;
  return block;
}

// A block for clusters that have none, in a cluster wherever one is free.
Task<Status> Refcounts::create_block(TableIndex index) {
  Result<Block*> block = co_await load(index);
  if (!block || *block != nullptr) co_return block ? Status() : block.status();
  Result<HostCluster> at = co_await allocate(1);
  if (!at) co_return at.status();
  block = co_await load(index);
  if (!block) co_return block.status();
  if (*block != nullptr) co_return co_await decrease(*at, 1);  // made along with the cluster
  if (at->value == 0) {
    corruption_ = "Preventing invalid allocation of refcount block at offset 0";
    co_return Status::error(EIO);
  }
  take_fresh(*at, 1);
  co_return co_await add_blocks({index}, *at);
}

// New blocks, each in one of the clusters from `at` on. They are on the disk, and the table refers
// to them, before anybody relies on them: who needs them hears of errors. What failed stays in
// memory, and is written with everything else.
Task<Status> Refcounts::add_blocks(const std::vector<TableIndex>& indexes, HostCluster at) {
  TableIndex last = std::max(indexes.back(), geometry_.table_index(at + (indexes.size() - 1)));
  const bool grows = last.value >= table_.size();
  if (grows) {
    Status status = co_await grow_table(last);
    if (!status.ok()) co_return status;
  }
  for (size_t i = 0; i < indexes.size(); ++i) {
    Result<Block*> block = co_await load(geometry_.table_index(at + i));
    if (!block) co_return block.status();
    if (*block != nullptr) set(**block, geometry_.block_index(at + i), 1);
  }
  for (size_t i = 0; i < indexes.size(); ++i) add_block(indexes[i], at + i);
  for (size_t i = 0; i < indexes.size(); ++i)
    set(blocks_.at(geometry_.table_index(at + i).value), geometry_.block_index(at + i), 1);
  // A table that is on its way to another place gets there with everything else.
  if (owner_ == nullptr || moving_ || table_on_disk_ == 0) co_return Status();
  if (grows) co_return co_await write_new_table(blocks_.at(indexes.front().value));
  if (table_offset_ != table_offset_on_disk_) co_return Status();
  co_await io::debug_event(file_.edge(), BlkdebugEvent::refblock_alloc_write);
  Status status = co_await write_new_blocks();
  if (status.ok()) status = co_await file_.flush();
  co_await io::debug_event(file_.edge(), BlkdebugEvent::refblock_alloc_hookup);
  for (TableIndex index : indexes) {
    std::array<std::byte, 8> entry{};
    store_be<uint64_t>(entry, 0, table_[index.value]);
    if (status.ok()) status = co_await file_.write(table_offset_ + index.value * 8, entry);
  }
  if (status.ok()) status = co_await file_.flush();
  co_return status;
}

// A larger table in memory, with a place in the file behind all that the present one can tell of:
// there it begins with blocks that count it and themselves.
Task<Status> Refcounts::grow_table(TableIndex last) {
  const uint64_t in_block = geometry_.refcount_block_entries();
  const uint64_t start = last.value + 1;
  const HostCluster area = geometry_.first_cluster(TableIndex(start));
  uint64_t blocks = start;
  uint64_t clusters = 0;
  for (;;) {
    uint64_t needed = (area.value + blocks + clusters + in_block - 1) / in_block;
    uint64_t bytes = std::min((needed + (needed + 1) / 2) * 8, kMaxRefcountTableBytes);
    if (needed * 8 > bytes) co_return Status::error(EFBIG);
    uint64_t wanted = geometry_.clusters_for(bytes);
    if (needed == blocks && wanted == clusters) break;
    blocks = needed;
    clusters = wanted;
  }
  if (area + (blocks + clusters) >= geometry_.cluster_of(HostOffset(kMaxHostOffset)))
    co_return Status::error(EFBIG);
  const uint64_t old_entries = table_.size();
  const HostOffset old_offset = table_offset_;
  const uint64_t own = blocks - start;
  table_.resize(clusters * (geometry_.cluster_size() / 8));
  dirty_table_pieces_.assign((table_.size() * 8 + kPieceBytes - 1) / kPieceBytes, false);
  for (uint64_t i = 0; i < own; ++i) add_block(TableIndex(start + i), area + i);
  for (HostCluster at = area; at < area + (own + clusters); ++at)
    set(blocks_.at(geometry_.table_index(at).value), geometry_.block_index(at), 1);
  take_fresh(area, own + clusters);
  table_offset_ = geometry_.offset_of(area + own);
  table_dirty_ = any_dirty_ = true;
  // A place that was chosen but never written is free again at once.
  if (old_offset != table_offset_on_disk_ && !moving_)
    co_return co_await decrease(geometry_.cluster_of(old_offset),
                                geometry_.clusters_for(old_entries * 8));
  co_return Status();
}

Task<Status> Refcounts::write_new_block(Block& block) {
  if (block.on_disk) co_return Status();
  Status status = co_await file_.write(block.at, block.bytes);
  block.on_disk = status.ok();
  co_return status;
}

Task<Status> Refcounts::write_new_blocks() {
  Status status;
  for (auto& [index, block] : blocks_) {
    if (status.ok()) status = co_await write_new_block(block);
  }
  co_return status;
}

// The table has just grown, for a block and perhaps others: to the disk with all of it. Then its
// old place is free.
Task<Status> Refcounts::write_new_table(Block& block) {
  co_await io::debug_event(file_.edge(), BlkdebugEvent::refblock_alloc_write);
  Status status = co_await write_new_block(block);
  co_await io::debug_event(file_.edge(), BlkdebugEvent::refblock_alloc_write_blocks);
  if (status.ok()) status = co_await write_new_blocks();
  co_await io::debug_event(file_.edge(), BlkdebugEvent::refblock_alloc_write_table);
  std::vector<std::byte> bytes(table_.size() * 8);
  for (size_t i = 0; i < table_.size(); ++i) store_be<uint64_t>(bytes, i * 8, table_[i]);
  if (status.ok()) status = co_await file_.write(table_offset_, bytes);
  if (status.ok()) status = co_await file_.flush();
  if (!status.ok()) co_return status;
  status = co_await owner_->switch_refcount_table(table_offset_, table_clusters());
  // Somebody is writing what was in memory before this: what comes after does the rest.
  if (status.error_number() == EBUSY) co_return Status();
  if (!status.ok()) co_return status;
  HostCluster old = geometry_.cluster_of(table_offset_on_disk_);
  uint64_t old_clusters = geometry_.clusters_for(table_on_disk_ * 8);
  table_offset_on_disk_ = table_offset_;
  table_on_disk_ = table_.size();
  co_return co_await decrease(old, old_clusters);
}

Task<Status> Refcounts::check_change(HostCluster first, uint64_t clusters, bool up, uint64_t by) {
  uint64_t most = geometry_.max_refcount();
  for (HostCluster at = first; at < first + clusters; ++at) {
    Result<uint64_t> now = co_await get(at);
    if (!now) co_return now.status();
    if (up && (by > most || *now > most - by)) co_return Status::error(ERANGE);
    if (!up && *now < by) co_return Status::error(EINVAL);
  }
  co_return Status();
}

Task<Status> Refcounts::change(HostCluster first, uint64_t clusters, bool up, uint64_t by) {
  co_await debug_change();
  Status status = co_await check_change(first, clusters, up, by);
  if (!status.ok()) co_return status;
  // All blocks are there before the first count changes, so that nothing has to be taken back.
  for (HostCluster at = first; up && at < first + clusters;) {
    TableIndex index = geometry_.table_index(at);
    Status made = co_await create_block(index);
    if (!made.ok()) co_return made;
    at = geometry_.first_cluster(index + 1);
  }
  for (HostCluster at = first; at < first + clusters; ++at) {
    Result<Block*> block = co_await load(geometry_.table_index(at));
    if (!block) co_return block.status();
    BlockIndex index = geometry_.block_index(at);
    uint64_t now = value(**block, index);
    set(**block, index, up ? now + by : now - by);
    if (!up && now == by) {
      hint_ = std::min(hint_, at);
      if (geometry_.cluster_of(HostOffset(free_byte_)) == at) free_byte_ = kNoBytes;
    }
  }
  co_return Status();
}

Task<Status> Refcounts::increase(HostCluster first, uint64_t clusters, uint64_t by) {
  return change(first, clusters, true, by);
}
Task<Status> Refcounts::decrease(HostCluster first, uint64_t clusters, uint64_t by) {
  return change(first, clusters, false, by);
}

Task<Result<std::vector<TableIndex>>> Refcounts::missing_blocks(HostCluster first,
                                                                uint64_t clusters) {
  std::vector<TableIndex> missing;
  for (HostCluster at = first; at < first + clusters;) {
    TableIndex index = geometry_.table_index(at);
    Result<Block*> block = co_await load(index);
    if (!block) co_return block.status();
    if (*block == nullptr) missing.push_back(index);
    at = geometry_.first_cluster(index + 1);
  }
  co_return missing;
}

// Blocks that are missing for the clusters come right behind them. When they are there the search
// begins anew: a table that moved has left its old place.
Task<Result<HostCluster>> Refcounts::allocate(uint64_t clusters) {
  HostCluster first;
  for (;;) {
    uint64_t blocks = 0;
    std::vector<TableIndex> missing;
    for (first = hint_;; blocks = missing.size()) {
      Result<HostCluster> found = co_await find_free(first, clusters + blocks);
      if (!found) co_return found.status();
      first = *found;
      Result<std::vector<TableIndex>> needed = co_await missing_blocks(first, clusters + blocks);
      if (!needed) co_return needed.status();
      missing = std::move(*needed);
      if (missing.size() <= blocks) break;
    }
    if (missing.empty()) break;
    co_await io::debug_event(file_.edge(), BlkdebugEvent::refblock_alloc);
    Status status = co_await add_blocks(missing, first + clusters);
    if (!status.ok()) co_return status;
  }
  co_await debug_change();
  for (HostCluster at = first; at < first + clusters; ++at) {
    Result<Block*> block = co_await load(geometry_.table_index(at));
    if (!block) co_return block.status();
    set(**block, geometry_.block_index(at), 1);
  }
  hint_ = first + clusters;
  co_return first;
}

Task<Result<uint64_t>> Refcounts::allocate_at(HostCluster first, uint64_t clusters) {
  uint64_t got = 0;
  for (; got < clusters; ++got) {
    Result<Block*> block = co_await load(geometry_.table_index(first + got));
    if (!block) co_return block.status();
    if (*block == nullptr) break;
    BlockIndex index = geometry_.block_index(first + got);
    if (value(**block, index) != 0) break;
    set(**block, index, 1);
  }
  if (got != 0) co_await debug_change();
  co_return got;
}

// A block that is there is about to change.
Task<void> Refcounts::debug_change_heard() {
  co_await io::debug_event(file_.edge(), BlkdebugEvent::refblock_alloc);
  co_await io::debug_event(file_.edge(), BlkdebugEvent::refblock_load);
}

// Compressed data may begin in the cluster in which the last ended and go on in the one behind it.
Task<Result<HostOffset>> Refcounts::allocate_bytes(uint64_t bytes) {
  uint64_t in_cluster = free_byte_ & (geometry_.cluster_size() - 1);
  uint64_t left = free_byte_ != kNoBytes ? geometry_.cluster_size() - in_cluster : 0;
  HostOffset at(free_byte_);
  if (left != 0) {
    Result<uint64_t> count = co_await get(geometry_.cluster_of(at));
    if (!count) co_return count.status();
    if (*count >= geometry_.max_refcount()) left = 0;
  }
  if (left < bytes) {
    Result<HostCluster> cluster = co_await allocate(1);
    if (!cluster) co_return cluster.status();
    take_fresh(*cluster, 1);
    bool follows = left != 0 && *cluster == geometry_.cluster_of(at) + 1;
    if (!follows) {
      at = geometry_.offset_of(*cluster);
      free_byte_ = bytes < geometry_.cluster_size() ? at.value + bytes : kNoBytes;
      co_return at;
    }
  }
  Status status = co_await increase(geometry_.cluster_of(at), 1);
  if (!status.ok()) {
    if (left < bytes) (void)co_await decrease(geometry_.cluster_of(at) + 1, 1);
    co_return status;
  }
  free_byte_ += bytes;
  if ((free_byte_ & (geometry_.cluster_size() - 1)) == 0) free_byte_ = kNoBytes;
  co_return at;
}

Task<Status> Refcounts::rebuild(const std::vector<uint16_t>& counts) {
  uint64_t clusters = counts.size();
  uint64_t blocks = geometry_.table_index(HostCluster(clusters)).value + 2;
  uint64_t bytes = geometry_.round_up(blocks * 8 + geometry_.cluster_size());
  if (bytes > kMaxRefcountTableBytes) co_return Status::error(EFBIG);
  blocks_.clear();
  table_.assign(bytes / 8, 0);
  dirty_table_pieces_.assign((bytes + kPieceBytes - 1) / kPieceBytes, false);
  table_on_disk_ = 0;  // its clusters may be somebody else's, too
  corruption_.clear();
  free_byte_ = kNoBytes;
  hint_ = HostCluster(clusters);
  for (uint64_t i = 0; i <= geometry_.table_index(HostCluster(clusters - 1)).value; ++i) {
    Status status = co_await create_block(TableIndex(i));
    if (!status.ok()) co_return status;
  }
  for (uint64_t i = 0; i < clusters; ++i) {
    if (counts[i] == 0) continue;
    HostCluster cluster(i);
    Result<Block*> block = co_await load(geometry_.table_index(cluster));
    if (!block) co_return block.status();
    set(**block, geometry_.block_index(cluster),
        std::min<uint64_t>(counts[i], geometry_.max_refcount()));
  }
  uint64_t table_clusters = bytes >> geometry_.cluster_bits();
  Result<HostCluster> place = co_await allocate(table_clusters);
  if (!place) co_return place.status();
  take_fresh(*place, table_clusters);
  table_offset_ = geometry_.offset_of(*place);
  hint_ = HostCluster(0);
  table_dirty_ = any_dirty_ = true;
  co_return Status();
}

Task<Status> Refcounts::start_over(HostCluster block, uint64_t clusters) {
  co_await io::debug_event(file_.edge(), BlkdebugEvent::refblock_alloc);
  Block& all = add_block(TableIndex(0), block);
  for (uint64_t i = 0; i < clusters; ++i) set(all, BlockIndex(i), 1);
  take_fresh(HostCluster(0), clusters);
  co_return co_await file_.write(all.at, all.bytes);
}

// The block's own cluster does not count where there is no other.
std::optional<HostCluster> Refcounts::last_counted(TableIndex index,
                                                   const Block& block) const noexcept {
  HostCluster first = geometry_.first_cluster(index);
  HostCluster own = geometry_.cluster_of(block.at);
  std::optional<HostCluster> last;
  for (uint64_t i = geometry_.refcount_block_entries(); i-- > 0;) {
    uint64_t count = value(block, BlockIndex(i));
    if (count == 0) continue;
    if (!last) last = first + i;
    if (first + i != own || count != 1) return last;
  }
  return std::nullopt;
}

// On the disk first: from then on nobody knows that its cluster was taken.
Task<Status> Refcounts::drop_block(TableIndex index, HostCluster own) {
  std::array<std::byte, 8> nothing{};
  Status status = co_await file_.write(table_offset_ + index.value * 8, nothing);
  if (status.ok()) status = co_await file_.flush();
  if (!status.ok()) co_return status;
  table_[index.value] = 0;
  blocks_.erase(index.value);
  hint_ = std::min(hint_, own);
  if (geometry_.table_index(own) == index) co_return status;
  co_return co_await decrease(own, 1);
}

Task<Result<std::optional<HostCluster>>> Refcounts::last_used(bool drop) {
  uint64_t clusters = std::max(geometry_.clusters_for(file_.length()), fresh_from_.value);
  uint64_t blocks = geometry_.table_index(HostCluster(clusters)).value + 1;
  for (uint64_t i = std::min<uint64_t>(blocks, table_.size()); i-- > 0;) {
    TableIndex index(i);
    Result<Block*> block = co_await load(index);
    if (!block) co_return block.status();
    if (*block == nullptr) continue;
    bool is_there = !(*block)->on_disk || (*block)->at.value < file_.length();
    if (!is_there) co_return Status::error(EIO);
    if (std::optional<HostCluster> last = last_counted(index, **block)) co_return last;
    HostCluster own = geometry_.cluster_of((*block)->at);
    if (!drop) continue;
    if (table_offset_ != table_offset_on_disk_ || (*block)->writing != 0) co_return own;
    Status status = co_await drop_block(index, own);
    if (!status.ok()) co_return status;
  }
  co_return std::optional<HostCluster>();
}

void Refcounts::close_for_bytes(HostCluster cluster) noexcept {
  if (geometry_.cluster_of(HostOffset(free_byte_)) == cluster) free_byte_ = kNoBytes;
}

bool Refcounts::take_fresh(HostCluster first, uint64_t clusters) noexcept {
  bool fresh = first >= fresh_from_;
  fresh_from_ = std::max(fresh_from_, first + clusters);
  return fresh;
}

Refcounts::Dirty Refcounts::take_dirty() {
  Dirty dirty;
  for (auto& [index, block] : blocks_) {
    if (!block.dirty) continue;
    for (size_t piece = 0; piece < block.dirty_pieces.size(); ++piece) {
      if (!block.dirty_pieces[piece]) continue;
      size_t offset = piece * kPieceBytes;
      ConstBytes bytes = ConstBytes(block.bytes).subspan(offset);
      if (bytes.size() > kPieceBytes) bytes = bytes.first(kPieceBytes);
      dirty.blocks.push_back({TableIndex(index), block.at + offset, {bytes.begin(), bytes.end()}});
      ++block.writing;
    }
    block.dirty_pieces.assign(block.dirty_pieces.size(), false);
    block.dirty = false;
  }
  bool moved = table_offset_ != table_offset_on_disk_;
  for (size_t piece = 0; table_dirty_ && piece < dirty_table_pieces_.size(); ++piece) {
    if (!moved && !dirty_table_pieces_[piece]) continue;
    size_t first = piece * kPieceBytes / 8;
    size_t last = std::min(first + kPieceBytes / 8, table_.size());
    std::vector<std::byte> bytes((last - first) * 8);
    for (size_t i = first; i < last; ++i) store_be<uint64_t>(bytes, (i - first) * 8, table_[i]);
    dirty.table.push_back({TableIndex(), table_offset_ + first * 8, std::move(bytes)});
  }
  moving_ = moved;
  if (moved) {
    dirty.moved = Dirty::Move{table_offset_, table_clusters(), table_offset_on_disk_,
                              geometry_.clusters_for(table_on_disk_ * 8)};
  }
  dirty_table_pieces_.assign(dirty_table_pieces_.size(), false);
  table_dirty_ = any_dirty_ = false;
  return dirty;
}

void Refcounts::written(const Dirty& dirty) noexcept {
  for (const DirtyPiece& piece : dirty.blocks) {
    Block& block = blocks_.at(piece.block.value);
    --block.writing;
    block.on_disk = true;
  }
  moving_ = false;
  if (dirty.moved) {
    table_offset_on_disk_ = dirty.moved->offset;
    table_on_disk_ = dirty.moved->clusters * (geometry_.cluster_size() / 8);
  }
}

void Refcounts::mark_dirty(const Dirty& dirty) {
  for (const DirtyPiece& piece : dirty.blocks) {
    Block& block = blocks_.at(piece.block.value);
    --block.writing;
    block.dirty_pieces[(piece.at - block.at) / kPieceBytes] = true;
    block.dirty = true;
  }
  for (const DirtyPiece& piece : dirty.table) {
    if (piece.at >= table_offset_ && piece.at - table_offset_ < table_.size() * 8)
      dirty_table_pieces_[(piece.at - table_offset_) / kPieceBytes] = true;
    table_dirty_ = true;
  }
  moving_ = false;
  any_dirty_ = true;
}

}  // namespace strata::qcow2
