// SPDX-License-Identifier: GPL-2.0-or-later
//
// The persistent bitmaps of an image: from its directory to the node's dirty bitmaps and back.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "block/bitmap/dirty_bitmap.h"
#include "block/coro/mutex.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {

// While the image is open for writing its bitmaps are in one of two states, see README.md:
//   ahead    the disk's copies never have too few bits; they are not `in_use`
//   in use   they are `in_use`, as QEMU has it; what is in memory is stored in the end
class PersistentBitmaps final : public BitmapKeeper {
 public:
  PersistentBitmaps(Image& image, Node& node) noexcept : image_(image), node_(node) {}

  // Gives the node what the directory lists. Throws Error.
  Task<void> load();
  // Before anything may be written. Throws Error.
  Task<void> begin_writing(bool ahead);
  // The disk's copies become what is in memory. The bitmaps stay the node's.
  Task<Status> store();
  // What store() could not do, where that is known: the beginning of a sentence.
  const std::string& what_failed() const noexcept { return what_failed_; }
  // After store(): nothing is written from now on.
  void end_writing() noexcept;

  // As in block/graph/driver.h.
  void check_new(const std::string& name, uint64_t granularity) const;
  Task<void> change(std::function<void()> action);
  Task<void> forget(std::string name);
  // Around a change of the disk's size: with what lies behind the smaller size held, and with
  // nothing held. Meanwhile others may write to the rest. before_resize() throws Error.
  Task<void> before_resize();
  Task<void> after_resize();

  // Any AioContext.
  Task<Status> cover(std::shared_ptr<DirtyBitmap> bitmap, ByteRange range) override;
  // Covered groups get their exact bits on the disk again, if it is some time that they did.
  bool checkpoint_due() const noexcept;
  Task<Status> checkpoint();
  void set_checkpoint_interval(std::chrono::milliseconds interval) noexcept {
    interval_ = interval;
  }

 private:
  // A bitmap's place in the image. The table is in memory while the image is written to.
  struct Stored {
    std::shared_ptr<DirtyBitmap> bitmap;
    HostOffset table_offset;
    std::vector<uint64_t> table;
  };
  // An order that does not change from run to run.
  struct ByName {
    bool operator()(const DirtyBitmap* a, const DirtyBitmap* b) const noexcept {
      return a->name() != b->name() ? a->name() < b->name() : std::less<>()(a, b);
    }
  };
  struct Groups {
    Stored* stored;
    uint64_t first;
    uint64_t count;
  };

  // bitmaps.cc
  Task<void> load_bitmap(const BitmapEntry& entry, uint64_t& budget);
  Task<std::vector<uint64_t>> read_table(const BitmapEntry& entry);
  Task<Status> mark_in_use();
  Task<Status> store_locked();
  Task<Status> store_bitmap(Stored& stored, bool rewrite);
  std::vector<BitmapEntry> directory() const;
  BitmapEntry entry_of(const Stored& stored) const;
  Task<Status> commit_directory(std::vector<BitmapEntry> entries);
  Task<Status> switch_directory(std::optional<BitmapsExtension> extension);
  Task<Result<HostCluster>> allocate(uint64_t clusters);
  void free_bitmap(const BitmapEntry& entry, const std::vector<uint64_t>& table);
  void free_replaced();
  Stored* find(const DirtyBitmap& bitmap) noexcept;
  uint64_t table_entries(const DirtyBitmap& bitmap) const noexcept;

  // bitmap_cover.cc
  Task<Status> write_groups(Stored& stored, uint64_t first, uint64_t count, bool covered);
  Task<Status> write_part(Stored& stored, uint64_t cluster, ByteRange bytes, Groups covered);
  Task<Status> give_cluster(Stored& stored, uint64_t cluster, ConstBytes content);
  std::vector<std::byte> contents(const Stored& stored, ByteRange bytes, Groups covered) const;
  Task<Status> give_up();
  Task<Status> write_changed(std::vector<Stored*> changed);
  Task<std::vector<Stored*>> change_alone(const std::function<void()>& action, Mutex::Lock& lock);

  Image& image_;
  Node& node_;
  Mutex mutex_;  // before Image's; never awaited with it held: a range of the node
  std::map<const DirtyBitmap*, Stored, ByName> stored_;
  // Where bitmaps were before they got new places: free once no directory refers to them.
  std::vector<std::pair<BitmapEntry, std::vector<uint64_t>>> replaced_;
  std::string what_failed_;
  bool writing_ = false;
  bool ahead_ = false;
  std::chrono::milliseconds interval_{30000};
  std::atomic<std::chrono::steady_clock::time_point> last_checkpoint_{};
  std::atomic<bool> any_covered_{false};
};

}  // namespace strata::qcow2
