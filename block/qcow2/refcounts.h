// SPDX-License-Identifier: GPL-2.0-or-later
//
// Refcounts: which host clusters are in use, how often, and where the next free ones are.
//
// Everything here is called with the metadata lock held (which is held over the I/O for a refcount
// block that is not in memory: one block speaks for gigabytes). Counts change in memory; what has
// changed reaches the disk by way of take_dirty().
//
// A count that is too high is a leak, one that is too low loses data. So counts are raised before
// anything on the disk refers to the cluster, and lowered only once nothing on the disk does any
// more and nobody still reads it: the Image sees to both.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "block/qcow2/format/entries.h"
#include "block/qcow2/image_file.h"

namespace strata::qcow2 {

// Who writes the header. Called with the metadata lock held.
class RefcountTableOwner {
 public:
  RefcountTableOwner() = default;
  RefcountTableOwner(const RefcountTableOwner&) = delete;
  RefcountTableOwner& operator=(const RefcountTableOwner&) = delete;
  // Makes the header on the disk refer to a table that is there. EBUSY: somebody else is writing
  // metadata, and will do so later.
  virtual Task<Status> switch_refcount_table(HostOffset offset, uint64_t clusters) = 0;

 protected:
  ~RefcountTableOwner() = default;
};

class Refcounts {
 public:
  // `table`: its entries as on disk, at `offset`. Without an owner, only write back moves the
  // table.
  void configure(const Geometry& geometry, ImageFile file, std::vector<uint64_t> table,
                 HostOffset offset, RefcountTableOwner* owner = nullptr);
  // So many clean blocks stay in memory.
  void keep_at_most(size_t blocks) noexcept { max_blocks_ = std::max<size_t>(blocks, 2); }
  // Of those that changed there are more than that.
  bool is_crowded() const noexcept { return blocks_.size() > max_blocks_; }

  Task<Result<uint64_t>> get(HostCluster cluster);
  // How many of them are in use; does not count further than to `most`.
  Task<Result<uint64_t>> count_used(HostCluster first, uint64_t clusters, uint64_t most);
  // EINVAL: a count would fall below 0 (or the cluster cannot be); ERANGE: one does not fit its
  // width. Nothing has changed then.
  Task<Status> increase(HostCluster first, uint64_t clusters, uint64_t by = 1);
  Task<Status> decrease(HostCluster first, uint64_t clusters, uint64_t by = 1);
  // A run of clusters, with a count of 1 each. EFBIG: the table cannot grow any more.
  Task<Result<HostCluster>> allocate(uint64_t clusters);
  // As many of the clusters from `first` on as are free and have a block, perhaps none.
  Task<Result<uint64_t>> allocate_at(HostCluster first, uint64_t clusters);
  // Room for compressed data, which shares clusters with others of its kind; at most a cluster's
  // worth, in one cluster or two that follow each other. Each counts one more.
  Task<Result<HostOffset>> allocate_bytes(uint64_t bytes);

  // Nothing more goes into the cluster that compressed data is being put into, if it is this one.
  void close_for_bytes(HostCluster cluster) noexcept;

  // Forgets all there is, and counts as told: in new blocks and a new table, behind the clusters
  // that `counts` tells of.
  Task<Status> rebuild(const std::vector<uint16_t>& counts);
  // The same where nothing is left but the first clusters, of which `block` is to be the block that
  // counts them. The table is on the disk as it is told, and empty.
  Task<Status> start_over(HostCluster block, uint64_t clusters);

  // Of all that was in the file, or was ever handed out; bytes.
  uint64_t end_of_use() const noexcept { return geometry_.offset_of(fresh_from_).value; }

  // Whether these clusters, just allocated, have never been written to: they lie behind what was
  // the end of the file. Asked once, by whoever allocated them.
  bool take_fresh(HostCluster first, uint64_t clusters) noexcept;

  // The last cluster of the file that is counted; nothing if none is. Blocks behind it that count
  // nothing but themselves are passed over; if `drop` they go, before anybody can have their
  // clusters, and nothing that was taken to be written is under way.
  Task<Result<std::optional<HostCluster>>> last_used(bool drop);
  // The file was cut there, and whatever will be behind it is zeroes.
  void ends_at(HostCluster end) noexcept { fresh_from_ = end; }

  // What made no sense in the table, as a text for the user; empty: nothing was met.
  const std::string& corruption() const noexcept { return corruption_; }

  const std::vector<uint64_t>& table() const noexcept { return table_; }
  HostOffset table_offset() const noexcept { return table_offset_; }
  uint64_t table_clusters() const noexcept { return geometry_.clusters_for(table_.size() * 8); }

  // Clean blocks that nobody has used since this was last called.
  void forget_unused() noexcept;

  struct DirtyPiece {
    TableIndex block;  // of a block; not used for the table
    HostOffset at;
    std::vector<std::byte> bytes;
  };
  // To be written in this order, each stable before the next: blocks; table, at its place or a new
  // one; the header, if it is a new one.
  struct Dirty {
    std::vector<DirtyPiece> blocks;
    std::vector<DirtyPiece> table;
    struct Move {
      HostOffset offset;
      uint64_t clusters;
      HostOffset old_offset;
      uint64_t old_clusters;
    };
    std::optional<Move> moved;
    bool empty() const noexcept { return blocks.empty() && table.empty(); }
  };
  bool is_dirty() const noexcept { return any_dirty_; }
  Dirty take_dirty();
  // What was taken is on the disk, or (mark_dirty) is not.
  void written(const Dirty& dirty) noexcept;
  void mark_dirty(const Dirty& dirty);

 private:
  static constexpr size_t kPieceBytes = 4096;
  static constexpr uint64_t kNoBytes = 0;

  struct Block {
    std::vector<std::byte> bytes;
    HostOffset at;
    std::vector<bool> dirty_pieces;
    bool dirty = false;
    bool on_disk = true;  // not, before it was ever written
    int writing = 0;
    uint64_t used = 0;
  };

  Task<Result<Block*>> load(TableIndex index);  // null: there is none
  Task<Result<HostCluster>> find_free(HostCluster from, uint64_t clusters);
  Task<Status> create_block(TableIndex index);
  std::optional<HostCluster> last_counted(TableIndex index, const Block& block) const noexcept;
  Task<Status> drop_block(TableIndex index, HostCluster own);
  Task<Result<std::vector<TableIndex>>> missing_blocks(HostCluster first, uint64_t clusters);
  Task<Status> change(HostCluster first, uint64_t clusters, bool up, uint64_t by);
  Task<Status> check_change(HostCluster first, uint64_t clusters, bool up, uint64_t by);
  Task<void> debug_change() {
    return file_.edge().node().io().hears_events ? debug_change_heard() : Task<void>::ready();
  }
  Task<void> debug_change_heard();
  Task<Status> add_blocks(const std::vector<TableIndex>& indexes, HostCluster at);
  Task<Status> grow_table(TableIndex last);
  Task<Status> write_new_blocks();
  Task<Status> write_new_block(Block& block);
  Task<Status> write_new_table(Block& block);
  Block& add_block(TableIndex index, HostCluster at);
  void set(Block& block, BlockIndex index, uint64_t value);
  uint64_t value(const Block& block, BlockIndex index) const noexcept;
  void mark_all(Block& block);
  void evict_some();

  Geometry geometry_;
  ImageFile file_;
  RefcountTableOwner* owner_ = nullptr;
  std::vector<uint64_t> table_;
  HostOffset table_offset_;
  uint64_t table_on_disk_ = 0;  // entries of the table that the header tells of
  HostOffset table_offset_on_disk_;
  bool table_dirty_ = false;
  std::vector<bool> dirty_table_pieces_;
  std::map<uint64_t, Block> blocks_;
  size_t max_blocks_ = 4;
  uint64_t clock_ = 0;
  uint64_t cleaned_at_ = 0;
  HostCluster hint_;        // allocation looks from here on
  HostCluster fresh_from_;  // nothing from here on was ever handed out, or is in the file
  uint64_t free_byte_ = 0;  // where the next compressed bytes go; 0: at a new cluster
  bool moving_ = false;     // write back is taking the table to its new place
  bool any_dirty_ = false;
  std::string corruption_;
};

}  // namespace strata::qcow2
