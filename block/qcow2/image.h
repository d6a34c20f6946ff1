// SPDX-License-Identifier: GPL-2.0-or-later
//
// Image: an open qcow2 image.
//
// Who guards what:
//
//   nobody           l1 entries and cached L2 slices, for readers
//   metadata         changes of l1, cached slices and refcounts; the list of what is to be freed
//   writing_back     everything that is written to the image file as metadata, and the header;
//   taken
//                    before `metadata`, and the only one held over the writes
//   allocating       ranges of the virtual disk whose mapping somebody is about to change
//
// Write back is where the order of metadata on the disk is stated, once (write_back.cc).
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "block/coro/mutex.h"
#include "block/coro/range_lock.h"
#include "block/coro/semaphore.h"
#include "block/coro/turnstile.h"
#include "block/graph/driver.h"
#include "block/graph/edge.h"
#include "block/graph/node.h"
#include "block/qcow2/amend.h"
#include "block/qcow2/encryption.h"
#include "block/qcow2/epochs.h"
#include "block/qcow2/file_tail.h"
#include "block/qcow2/format/bitmaps.h"
#include "block/qcow2/format/header.h"
#include "block/qcow2/format/snapshots.h"
#include "block/qcow2/image_file.h"
#include "block/qcow2/l1_table.h"
#include "block/qcow2/l2_cache.h"
#include "block/qcow2/mapping.h"
#include "block/qcow2/metadata_filter.h"
#include "block/qcow2/refcounts.h"
#include "block/qcow2/settings.h"

namespace strata {
struct OpenContext;
}

namespace strata::qcow2 {

// Why a cluster becomes free: whether that is passed on as a discard is an option for each.
enum class FreedBy : uint8_t { nobody, request, snapshot, other, always };

struct Freed {
  HostCluster first;
  uint64_t clusters = 0;
  FreedBy by = FreedBy::other;
};

// What was read of a snapshot table, and what of it could not be kept.
struct SnapshotTable {
  std::vector<Snapshot> snapshots;
  uint64_t bytes = 0;               // of the table, as far as it was read
  uint64_t overhanging = 0;         // entries at the end that were left out
  uint64_t corruptions = 0;         // other faults that were mended
  std::vector<std::string> mended;  // and in words
};

class Allocation;

class Image final : RefcountTableOwner {
 public:
  explicit Image(Node& node) noexcept : node_(node) {}
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;

  // --- Opening (open.cc). Throws Error. ---

  struct OpenAs {
    bool read_write = false;
    bool repairing = false;
  };
  Task<void> load(Edge& file, OpenAs as);
  // From the place that the header tells; nothing is dirty. load() does it where the image is to be
  // changed; for one that is changed later, before that.
  Task<Status> load_refcounts();
  // After load(), before requests: where guest data is, and how much memory may be used.
  void use_data_file(Edge& data) noexcept;
  // After load(): the key, where guest data is encrypted.
  Task<void> open_encryption(const std::optional<qapi::BlockdevQcow2Encryption>& options);
  void configure(const Settings& settings) { change_settings(settings, cache_for(settings)); }
  // In two steps, for an image in use on which no request is: first the memory of another cache, if
  // the settings want one, for which nothing is dirty. Throws Error.
  L2Cache::StoragePtr cache_for(const Settings& settings) const;
  void change_settings(const Settings& settings, L2Cache::StoragePtr cache) noexcept;
  Task<void> load_snapshots();
  Task<void> load_bitmap_directory();

  const Header& header() const noexcept { return header_; }
  const Extensions& extensions() const noexcept { return extensions_; }
  const Geometry& geometry() const noexcept { return geometry_; }
  const std::string& backing_name() const noexcept { return backing_name_; }
  const std::vector<Snapshot>& snapshots() const noexcept { return snapshots_; }
  const std::vector<BitmapEntry>& bitmaps() const noexcept { return bitmaps_; }
  const Settings& settings() const noexcept { return settings_; }
  Node& node() const noexcept { return node_; }
  const Encryption& encryption() const noexcept { return encryption_; }
  uint64_t size() const noexcept { return size_.load(std::memory_order_acquire); }
  bool has_data_file() const noexcept { return header_.has(kIncompatibleDataFile); }
  bool data_file_raw() const noexcept { return (header_.autoclear & kAutoclearDataFileRaw) != 0; }
  // Nothing is to be done with it any more. What the disk has stays as it is.
  void abandon() noexcept { unusable_ = abandoned_ = true; }
  // Why it could not be read what has to be known before the image may be written to; 0: it could,
  // or was not needed yet.
  int why_unguarded() const noexcept { return unguarded_; }
  bool is_unusable() const noexcept { return unusable_.load(std::memory_order_relaxed); }

  // --- Requests: any AioContext. As in block/graph/driver.h. ---

  Task<Status> read(uint64_t offset, IoVector into);
  Task<Status> write(uint64_t offset, IoVector from);
  Task<Status> write_compressed(uint64_t offset, IoVector from);
  Task<Status> write_zeroes(uint64_t offset, uint64_t bytes, bool may_unmap);
  Task<Status> discard(uint64_t offset, uint64_t bytes);
  Task<Result<Run>> lookup(GuestOffset offset, uint64_t bytes);
  // For an entry that a lookup found: tells of it. EIO.
  Status refuse_entry(const Invalid& invalid, GuestOffset at);
  // With encryption, whole sectors. EFBIG: behind what tables can reach.
  Task<Status> load_vm_state(uint64_t offset, IoVector into);
  Task<Status> save_vm_state(uint64_t offset, IoVector from);
  // Bytes; no guest arrives there.
  uint64_t vm_state_offset() const noexcept;
  // For whoever opens it to write to it: what others left that this code does not keep up is lost.
  Task<Status> drop_unknown_features();
  // Whether all of it is known, without waiting, to be data.
  bool is_surely_data(GuestOffset offset, uint64_t bytes) const noexcept;
  // Metadata in memory goes to the disk, in an order that is safe at every point; what was written
  // and discarded before is in it. Flushes the files as the order demands.
  Task<Status> write_back();
  // Any context, without waiting: gives back the memory of clean metadata that nobody has used
  // since this was last called.
  void clean_caches() noexcept;

  // --- Control plane: nobody else uses the image meanwhile, unless said otherwise ---

  // Other requests may go on. Throws.
  Task<void> resize(uint64_t size, TruncateOptions options);
  // Nothing dirty, nothing waiting to be freed or flushed afterwards.
  Task<Status> settle();
  bool is_settled() const noexcept;
  bool is_emptying() const noexcept { return emptying_; }
  // Whether clearly more of the file is in use than takes room on the host, as where metadata was
  // preallocated: only there the file is asked what of the data is zeroes.
  Task<bool> has_unwritten_data();
  // Keeps what is on the disk as it is; requests go on in memory as far as they can.
  Task<Mutex::Lock> lock_write_back() { co_return co_await writing_back_.lock(); }
  // By id, else by name.
  std::optional<size_t> find_snapshot(const std::string& any) const;
  // Throws Error if its table is where none can be, or is too large.
  void check_snapshot(size_t index) const;
  Task<void> create_snapshot(Snapshot snapshot);
  Task<void> delete_snapshot(size_t index);
  Task<void> apply_snapshot(size_t index);
  // What a change of snapshots left undone that failed.
  Task<Status> mend_flags();
  // From now on reads are of the snapshot. Only for an image that was opened to be read.
  Task<void> show_snapshot(size_t index);
  // How densely compressed clusters are packed; see compress_cluster().
  void set_compression_level(std::optional<int> level) noexcept { compression_level_ = level; }
  // Of an image without data yet, whose guest data is encrypted from then on. Throws.
  Task<void> create_encryption(const qapi::QCryptoBlockCreateOptions& options);
  // Throws.
  void check_encryption_amendable() const;
  Task<void> amend_encryption(const qapi::QCryptoBlockAmendOptionsLUKS& options, bool force);
  // Maps all of [from, to) to clusters of its own, which read as they did.
  Task<void> settle_size(uint64_t old_size, uint64_t size, TruncateOptions options);
  Task<Status> preallocate(uint64_t from, uint64_t to, TruncateOptions options);
  Task<Status> change_backing_file(std::string name, std::optional<std::string> format);
  // The image was found, or made, sound: it is neither dirty nor corrupt.
  Task<Status> clear_broken_flags();
  // Nothing is mapped any more: all of the disk is what the backing file says (make_empty.cc). That
  // is so even if it fails; then the disk has yet to follow.
  Task<Status> make_empty();
  // Much may be written behind the file's end.
  void expect_growth() noexcept {
    tail_.configure(file_.edge().node().driver().has_zero_init() && !has_data_file());
  }
  // Nobody writes. The file ends where what is in it does.
  Task<void> cut_tail() { return tail_.cut(file_, HostOffset(refcounts_.end_of_use())); }
  // The file ends where a cluster does, if that can be had: as it is found in QEMU's images.
  Task<void> fill_last_cluster();
  // The steps of amend.h. Throw.
  Task<Status> amend_header(Amendment amendment);
  // All entries of the table have what version 3 demands.
  Task<Status> complete_snapshots();
  Task<void> change_refcount_width(unsigned order, AmendProgress progress);
  Task<void> downgrade(AmendProgress progress);

 private:
  friend class Check;
  friend class Allocation;
  friend class PersistentBitmaps;

  // Clusters that wait to be freed: then they are, before there are more.
  static constexpr uint64_t kMostFreedAtOnce = 64 * 1024;

  struct PendingCluster {
    HostOffset host;
    int users = 0;
    bool fresh = false;
    bool linked = false;
  };
  enum class Way : uint8_t { in_place, fresh, reserved, replace, invalid };
  struct Plan {
    Way way = Way::invalid;
    ByteRange range;  // of the request
    ByteRange unit;   // what is written and locked: whole subclusters, or clusters to replace
    GuestCluster first;
    uint64_t clusters = 0;
    HostOffset reserved;  // Way::reserved: the cluster
    // How the clusters are linked: what is preallocated does not show what is in it.
    enum class As { data, zeroes, unallocated } as = As::data;
  };

  Task<void> load_l1_table();
  uint64_t refcount_table_bytes() const noexcept;
  // The first `count` entries. To repair: leaves out what is too much. Throws Error.
  Task<SnapshotTable> read_snapshots(uint64_t count, bool repair);

  // vm_state.cc
  std::optional<GuestOffset> vm_state_at(uint64_t offset, uint64_t bytes) const noexcept;
  Task<Status> drop_vm_state(uint64_t new_size);

  // guest data, which may be encrypted
  Task<Status> read_data(HostOffset host, GuestOffset guest, IoVector into) {
    if (encryption_) return encryption_.read(*data_, host, guest, into);
    return io::preadv(*data_, host.value, into);
  }
  Task<Status> write_data(HostOffset host, GuestOffset guest, IoVector from) {
    if (encryption_) return encryption_.write(*data_, host, guest, from);
    return io::pwritev(*data_, host.value, from);
  }

  // mapping and reading (read.cc)
  MappingRules rules() const noexcept { return {geometry_, header_.version, has_data_file()}; }
  bool try_lookup(GuestOffset offset, uint64_t bytes, Run& run) const noexcept;
  bool try_lookup_many(GuestOffset offset, uint64_t bytes, Run& run) const noexcept;
  bool try_lookup_table(GuestOffset offset, uint64_t bytes, Run& run) const noexcept;
  size_t entries_wanted(GuestOffset offset, uint64_t bytes) const noexcept;
  Task<Result<Run>> lookup_pinned(GuestOffset offset, uint64_t bytes);
  // Whoever holds a pin asks for no other.
  Task<Result<L2Cache::Pin>> pin_slice(SliceIndex slice);
  Task<Status> fill_slice(L2Cache::Waiter& waiter, SliceIndex slice);
  Task<Status> read_run(const Run& run, GuestOffset offset, IoVector into);
  Task<Status> read_unlocked(GuestOffset offset, IoVector into);
  Task<Status> read_backing(GuestOffset offset, IoVector into);
  Task<Status> read_compressed(CompressedExtent extent, uint64_t in_cluster, IoVector into);
  Edge* backing() const noexcept { return node_.child_in_role(ChildRole::cow); }
  // Whether what is unallocated there reads as zeroes.
  bool backing_is_zero(ByteRange range) const noexcept;

  // Where reading at `offset` ends: what is behind it is zeroes.
  uint64_t end_for(GuestOffset offset) const noexcept {
    if (offset.value < vm_state_offset()) return size();
    return l1_.size() * geometry_.bytes_per_l2_table();
  }

  // writing (write.cc, link.cc)
  Task<Status> write_first(uint64_t offset, IoVector from);
  Task<Status> write_announced(uint64_t offset, IoVector from);
  Task<Status> write_mapped(uint64_t offset, IoVector from);
  Task<Result<uint64_t>> write_somewhere(GuestOffset offset, IoVector from, HostCluster& behind);
  // All of it, and says how much that is.
  Task<Result<uint64_t>> write_in_place(HostOffset host, GuestOffset guest, IoVector from);
  static bool stays(Way way) noexcept { return way == Way::reserved || way == Way::in_place; }
  bool goes_on(const Plan& plan, Way way, const L2Entry& entry, bool whole) const noexcept;
  Plan plan_write(GuestOffset offset, uint64_t bytes, std::span<const L2Entry> entries) const;
  Way way_of(const L2Entry& entry, ByteRange in_cluster) const noexcept;
  Task<Status> read_entries(GuestCluster first, std::span<L2Entry> entries);
  Task<Result<uint64_t>> write_planned(Plan plan, IoVector from, HostCluster& behind);
  // The plan says afterwards how much it was.
  Task<Status> write_allocated(Plan& plan, IoVector from, HostCluster& behind);
  static void shorten(Plan& plan, uint64_t clusters, const Geometry& geometry) noexcept;
  Task<Status> write_shared(const Plan& plan, IoVector from);
  // Before what is fresh is written, up to `end`.
  Task<void> grow_tail(HostOffset end) {
    return tail_.is_wanted(file_, end) ? tail_.reach(file_, end) : Task<void>::ready();
  }
  Task<Status> write_with_edges(const Plan& plan, HostOffset host, bool fresh, IoVector from);
  Task<bool> edge_is_zero(ByteRange range);
  Task<Status> link(const Plan& plan, HostOffset host, Allocation* allocation);
  L2Entry linked_entry(const Plan& plan, const L2Entry& old, GuestCluster cluster,
                       HostOffset host) const noexcept;

  // write_compressed.cc
  struct Packing;
  Task<Status> write_packed(GuestOffset offset, IoVector from);
  Task<Status> pack(Packing& packing, GuestOffset offset, IoVector from);
  Task<Status> place_packed(Packing& packing);
  Task<Status> write_packed_bytes(const Packing& packing);
  Task<Status> link_packed(Packing& packing);

  // metadata (metadata.cc)
  // The metadata lock, a slice in the cache, and its table fit for change.
  struct Changing {
    Mutex::Lock lock;
    L2Cache::Pin slice;
  };
  Task<Status> begin_change(Changing& changing, SliceIndex slice);
  Task<Status> prepare_table(L1Index index);
  // `what` they are for, as a text for the user.
  Task<Result<HostCluster>> allocate_clusters(uint64_t clusters, const char* what = nullptr);
  // Behind what a request has got already, as far as that is free; else all in one place.
  Task<Result<HostCluster>> allocate_behind(HostCluster behind, uint64_t& clusters);
  Task<Result<bool>> find_unwritten_data();
  Status check_allocated(HostCluster first, uint64_t clusters, const char* what);
  void free_later(HostCluster first, uint64_t clusters, FreedBy by);
  // What waits to be given back is counted as used for good.
  void leak_freed() noexcept;
  void free_entry(const L2Entry& old, FreedBy by);
  void free_extent(CompressedExtent extent, FreedBy by);
  // What the guard of inactive L2 tables has to know, before anything is changed.
  Task<Status> load_inactive_tables();
  void forget_inactive_tables() noexcept;
  // What of the metadata lies there; null: nothing.
  const char* metadata_at(HostOffset at, uint64_t bytes) const;
  // Cheap, and seldom true where there is none.
  bool may_hold_metadata(HostOffset at, uint64_t bytes) const noexcept;
  Task<Status> check_in_place(HostOffset at, uint64_t bytes);
  void signal_corruption(std::string message, std::optional<HostOffset> at, uint64_t bytes,
                         bool fatal);
  void signal_refcounts();
  void signal_misplaced(const L2Entry& entry, GuestOffset at);
  void free_entry_unaligned(HostOffset at);
  // EIO at first; nothing can be done with the image afterwards.
  Status unusable() const noexcept { return Status::error(ENOMEDIUM); }
  void guard_range(uint64_t offset, uint64_t bytes);

  // make_empty.cc
  bool can_start_over() const noexcept;
  Task<Status> start_over();
  Task<Status> finish_emptying();
  Task<Status> write_empty_structure();
  Task<Status> forget_clusters(ByteRange range);

  // zero.cc
  enum class Wipe : uint8_t { zero, zero_and_unmap, discard, forget };
  Task<Status> wipe_clusters(ByteRange range, Wipe how);
  bool tables_fit(L1Index first, uint64_t count) const noexcept;
  Task<Status> wipe_in_slice(GuestCluster first, uint64_t clusters, Wipe how,
                             std::vector<ByteRange>& keep_but_discard);
  std::optional<L2Entry> wiped_entry(const L2Entry& old, Wipe how) const noexcept;
  Task<Status> zero_subclusters(ByteRange range);
  Task<Status> zero_part(ByteRange range);
  Task<Status> mark_zero(ByteRange range);
  Task<bool> chain_reads_as_zero(ByteRange range);
  Task<bool> reads_as_zero(ByteRange range);

  // write_back.cc
  struct Dirty {
    Refcounts::Dirty refcounts;
    L2Cache::DirtySlices l2;
    std::vector<std::pair<size_t, std::vector<std::byte>>> l1;  // first entry, bytes
    std::vector<HostOffset> l2_places;                          // of the pieces
    std::vector<Freed> freed;
  };
  struct Retired {
    uint64_t epoch = 0;
    std::vector<Freed> freed;
  };
  // `all`: refcounts, too, even if they may be late.
  Task<Dirty> take_dirty(bool all);
  Task<Status> write_dirty(Dirty& dirty);
  Task<Status> write_refcounts(Dirty& dirty);
  Task<Status> point_to_refcount_table(HostOffset offset, uint64_t clusters);
  Task<Status> switch_refcount_table(HostOffset offset, uint64_t clusters) override;
  Task<Status> write_tables(Dirty& dirty);
  Task<Status> flush_files();
  Task<void> put_back(Dirty& dirty, Status why);
  Task<Status> write_back_locked(bool all = false);
  Task<Status> make_room();
  Task<Status> mark_corrupt();
  Task<Status> mark_dirty();
  Task<Status> mark_clean();
  Task<Status> reap();
  Task<void> release(const Freed& freed);
  Task<Status> before_first_write();
  Task<Status> drop_unknown_features_locked();
  Task<Status> write_header();

  // structure (resize.cc, snapshots.cc)
  Task<Status> grow_l1(uint64_t entries);
  // shrink.cc
  Task<Status> shrink(uint64_t size);
  Task<void> settle_shrunk();
  Task<Status> reclaim();
  Task<Status> drop_tables_behind_end();
  Task<Status> write_zero_bytes(ByteRange range);
  Task<Status> allocate_and_link(const Plan& plan, qapi::PreallocMode in_file);
  // The L2 tables that an L1 table refers to, by offset, and how often.
  using TableUses = std::map<uint64_t, uint64_t>;
  TableUses uses_of_active_tables() const;
  static void add_uses(TableUses& uses, ConstBytes l1);
  Status check_referred(HostCluster first, uint64_t clusters) const noexcept;
  Task<Status> read_table(HostOffset table, std::vector<std::byte>& entries);
  Task<Status> change_table_refcounts(HostOffset table, uint64_t times, bool up);
  Task<Status> change_refcounts(const TableUses& tables, bool up);
  Task<Status> write_l1(HostOffset at, uint64_t entries);
  Task<Status> set_dirty_bit(bool on);
  Task<Status> begin_snapshot_change();
  Task<Status> end_snapshot_change();
  Task<Status> set_copied_flags();
  Task<Status> store_snapshots(std::vector<Snapshot> snapshots);
  // A snapshot's table, as far as it is in the file: what lies behind is empty.
  Task<Result<std::vector<std::byte>>> read_l1(size_t index);

  // another refcount width (refcount_width.cc)
  Task<Result<std::set<uint64_t>>> blocks_of_width(const Geometry& wanted);
  struct NewStructure {
    HostCluster first;
    uint64_t clusters = 0;
    std::set<uint64_t> blocks;
    // Over all refcounts: some to find a place for it, and the one that writes it.
    uint64_t walks = 3;
  };
  // Allocates it.
  Task<Status> place_structure(const Geometry& wanted, NewStructure& structure,
                               const AmendProgress& progress);
  Task<Status> pack_block(const Geometry& wanted, uint64_t index, Bytes into);
  Task<Status> write_structure(const Geometry& wanted, const NewStructure& structure,
                               const AmendProgress& progress);
  Task<Status> adopt_structure(HostCluster first, uint64_t table_clusters, unsigned order);

  // version 2 (downgrade.cc)
  void check_downgrade() const;
  Task<Status> fill_with_zeroes(HostOffset at, GuestOffset guest);
  Task<Result<HostOffset>> make_zero_cluster(GuestOffset guest, uint64_t references);
  Task<Result<L2Entry>> expanded_entry(L2Entry old, GuestOffset guest, uint64_t references);
  Task<Status> expand_table(HostOffset table, GuestOffset guest, uint64_t references);
  Task<Status> find_all_l2_tables(TableUses& tables, TableUses& places);

  Node& node_;
  ImageFile file_;
  Edge* data_ = nullptr;
  Header header_;
  Extensions extensions_;
  Encryption encryption_;
  Geometry geometry_;
  std::string backing_name_;
  std::vector<Snapshot> snapshots_;
  uint64_t snapshot_table_bytes_ = 0;
  std::vector<BitmapEntry> bitmaps_;
  Settings settings_;
  std::atomic<uint64_t> size_{0};
  std::atomic<bool> unusable_{false};  // corruption that forbids to go on
  std::atomic<bool> abandoned_{false};
  std::atomic<bool> emptying_{false};  // writing_back: before anything else is changed
  std::atomic<int> unguarded_{0};      // errno
  enum class Unwritten : uint8_t { unknown, no, yes };
  std::atomic<Unwritten> unwritten_data_{Unwritten::unknown};
  std::atomic<bool> announced_{false};
  std::atomic<bool> signalled_{false};
  std::atomic<int> unfreed_{0};  // errno: why clusters could not be given back, since it was 0
  bool lazily_dirty_ = false;    // writing_back: the dirty bit is set, by lazy refcounts

  Mutex writing_back_;
  Mutex metadata_;
  RangeLock allocating_;
  Turnstile packing_order_;
  FileTail tail_;
  // More at once than there are processors would only take memory.
  static unsigned packers() noexcept;
  Semaphore packers_{packers()};
  std::optional<int> compression_level_;
  Epochs epochs_;

  L1Table l1_;
  L2Cache l2_;
  Refcounts refcounts_;
  MetadataFilter filter_;
  // Only where they are guarded; nothing where they have yet to be read.
  std::optional<std::vector<HostCluster>> inactive_l2_;
  std::map<uint64_t, PendingCluster> pending_;  // metadata: by guest cluster
  std::mutex freed_mutex_;                      // for a moment, beside the metadata lock
  std::vector<Freed> freed_;
  std::atomic<uint64_t> freed_clusters_{0};
  std::atomic<uint64_t> discarded_clusters_{0};  // of these, those that requests discarded
  bool flags_in_doubt_ = false;            // whether entries' copied flags say what refcounts say
  bool dirty_before_ = false;              // the dirty bit, before they came into doubt
  bool header_in_doubt_ = false;           // writing_back: the disk may have another than memory
  std::vector<Retired> retired_;           // writing_back
  std::atomic<uint64_t> rounds_begun_{0};  // changes with writing_back
  Status last_round_;                      // writing_back
};

// Clusters that nothing refers to yet. What is not linked is given back.
class Allocation {
 public:
  Allocation(Image& image, HostCluster first, uint64_t clusters) noexcept
      : image_(image), first_(first), clusters_(clusters) {}
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;
  ~Allocation() {
    if (clusters_ != 0) image_.free_later(first_, clusters_, FreedBy::other);
  }
  void linked() noexcept { clusters_ = 0; }

 private:
  Image& image_;
  HostCluster first_;
  uint64_t clusters_;
};

}  // namespace strata::qcow2
