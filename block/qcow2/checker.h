// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the parts of a check share. Included by check*.cc only.
#pragma once

#include <fmt/format.h>

#include <map>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include "block/qcow2/check.h"
#include "block/qcow2/reference_counts.h"

namespace strata::qcow2 {

// Counts what is referred to, cluster by cluster, and compares that with the refcounts. It reads
// the file and nothing else: the image's tables in memory are not asked.
//
// Findings come in QEMU's order: as often as the L1 tables refer to an L2 table it is walked
// through. Where there was nothing to say the first time, the next times only count, all at once at
// the end; and so does everything that comes after a good many findings, so that what there is to
// do is bounded by the file and not by what it claims.
class Check {
 public:
  Check(Image& image, CheckFix fix, const CheckReport& report)
      : image_(image), geometry_(image.geometry_), fix_(fix), report_(report) {}

  // In use: what is on the disk does not change meanwhile, but what is in memory does.
  void image_is_in_use() noexcept { in_use_ = true; }
  Task<Status> run();
  const CheckResult& result() const noexcept { return result_; }

 private:
  // Findings after which nothing is walked through twice any more, and after which none is shown.
  static constexpr uint64_t kMostRepeated = 100'000;
  static constexpr uint64_t kMostShown = 1'000'000;
  // L1 entries of snapshots, and entries of bitmap tables, that are looked at one by one.
  static constexpr uint64_t kMostEntries = 16 * 1024 * 1024;

  // What is known of an L2 table that was walked through.
  struct Visit {
    bool visited = false;
    uint64_t corruptions = 0;
    uint64_t more = 0;  // references that are still to be counted
    uint32_t allocated = 0, compressed = 0, fragmented = 0;
  };
  struct L1Use {
    HostOffset offset;
    uint64_t entries = 0;
    bool active = false;
  };
  struct Walk {
    HostOffset table;
    uint64_t times = 1;
    CheckFix fix;
    bool quiet = false;  // nothing is said, and nothing judged
    HostOffset next_contiguous;
    Visit visit;
  };
  // Tables of 8-byte entries, each as the two ends of where it lies.
  struct Stretch {
    uint64_t offset = 0;
    int change = 0;
  };
  struct Sweep {
    explicit Sweep(std::vector<Stretch> ends);
    uint64_t covered() const noexcept { return depth[next]; }
    std::vector<Stretch> stretches;
    std::vector<uint64_t> depth;  // how many tables there are behind each end
    size_t next = 0;
    uint64_t at = 0;
    std::vector<std::byte> entries;
    uint64_t times = 0;
  };

  template <class... Args>
  void say(fmt::format_string<Args...> format, Args&&... args) {
    if (++said_ <= kMostShown && report_)
      report_(CheckSays::finding, fmt::format(format, std::forward<Args>(args)...));
    else if (said_ == kMostShown + 1 && report_)
      report_(CheckSays::finding, "Further findings are counted, but not shown");
  }
  template <class... Args>
  void error(fmt::format_string<Args...> format, Args&&... args) {
    ++result_.corruptions;
    say(format, std::forward<Args>(args)...);
  }
  void failure(const std::string& text) const {
    if (report_) report_(CheckSays::failure, text);
  }
  static const char* verb(bool repairs) noexcept { return repairs ? "Repairing" : "ERROR"; }

  // check_snapshots.cc
  Task<Status> read_snapshots();
  void check_entries_of_snapshots();
  Task<Status> drop_overhanging(uint64_t count);
  Task<Status> write_snapshots();

  // check_references.cc
  Task<Status> load_refcount_table();
  Task<Status> count_references(CheckFix fix);
  void count(HostOffset at, uint64_t bytes, uint64_t times = 1);
  void overflow(uint64_t cluster);
  uint64_t bytes_in_file(HostOffset table, uint64_t bytes) const noexcept;
  void add_stretch(std::vector<Stretch>& to, HostOffset table, uint64_t bytes) const;
  Task<Status> next_entries(Sweep& sweep);
  Task<Status> count_l1(L1Use use, CheckFix fix);
  Task<Status> count_l1_entry(uint64_t raw, uint64_t times, bool active, CheckFix fix);
  Task<Status> count_snapshots(CheckFix fix);
  Task<Status> count_stretches(CheckFix fix);
  Task<Status> count_bitmaps();
  void count_bitmap_entry(BitmapTableEntry entry, uint64_t times);
  Task<Status> count_refcount_blocks(CheckFix fix);
  Task<bool> grow_file_to(HostOffset block);
  void find_metadata();
  bool is_other_metadata(HostOffset at) const noexcept;

  // check_tables.cc
  Task<Status> visit_table(HostOffset table, uint64_t times, bool active, CheckFix fix);
  Task<Status> walk_table(Walk& walk);
  Task<Status> count_again();
  std::optional<ByteRange> range_of(const L2Entry& entry) const noexcept;
  bool is_plain(const L2Entry& entry) const noexcept;
  void note_place(Walk& walk, HostOffset at) const noexcept;
  bool judge_entry(Walk& walk, size_t index, const L2Entry& entry);
  void judge_compressed(Walk& walk, size_t index, L2Entry entry);
  bool judge_placed(Walk& walk, const L2Entry& entry);
  Task<Status> zero_entry(HostOffset table, size_t in_table);

  // check_refcounts.cc
  struct Leak {
    uint64_t cluster = 0, stored = 0, counted = 0;
  };
  Task<Status> check_refcounts();
  Task<Status> compare(CheckFix fix, bool last);
  Task<Status> compare_block(uint64_t index, CheckFix fix, bool last);
  Task<Status> compare_clusters(uint64_t first, uint64_t end, CheckFix fix, bool last);
  Task<Status> fix_leaks_in_use();
  uint64_t skip_equal(uint64_t cluster, uint64_t first, uint64_t end) noexcept;
  Task<bool> fix_count(uint64_t cluster, uint64_t stored, uint64_t counted);
  Task<Status> rebuild_and_compare();
  Task<std::optional<uint64_t>> stored_count(HostCluster cluster);
  Task<Status> check_copied();
  Task<Status> check_copied_entry(L1Index index, L1Entry entry, bool repair);
  size_t skip_right_flags(size_t at) const noexcept;
  Task<Status> check_copied_table(HostOffset table, bool repair);

  // check_rebuild.cc
  Task<Status> rebuild();
  HostCluster take_free(uint64_t clusters);
  bool plan_rebuild();
  Task<Status> write_rebuilt_blocks();
  Task<Status> write_rebuilt_table();

  Image& image_;
  const Geometry geometry_;
  const CheckFix fix_;
  const CheckReport& report_;
  bool in_use_ = false;
  uint64_t said_ = 0;

  std::vector<Snapshot> snapshots_;
  uint64_t snapshot_table_bytes_ = 0;
  CheckResult of_snapshots_;

  uint64_t file_bytes_ = 0;
  std::vector<uint64_t> table_;  // the refcount table
  ReferenceCounts counts_;
  std::unordered_map<uint64_t, Visit> visits_;  // by offset of the table
  uint64_t entries_seen_ = 0;
  std::vector<Stretch> stretches_;
  std::vector<ByteRange> metadata_;  // but L2 tables; sorted
  CheckResult result_;
  std::set<uint64_t> unreadable_;  // indexes of refcount blocks
  std::vector<Leak> leaked_;       // of an image in use: to be mended in the end
  uint64_t highest_ = 0;
  bool needs_rebuild_ = false;
  bool told_of_unaligned_ = false;
  std::vector<std::byte> buffer_;
  std::vector<std::byte> block_;
  std::map<uint64_t, HostCluster> new_blocks_;  // by index
  HostCluster new_table_;
  uint64_t new_table_clusters_ = 0;
  HostCluster next_free_;
};

}  // namespace strata::qcow2
