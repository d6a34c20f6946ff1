// SPDX-License-Identifier: GPL-2.0-or-later
//
// Keeping the disk ahead: before the first write to a group of granules, the disk says that all of
// it is dirty. From time to time, and in the end, it says what is so.
#include <algorithm>
#include <cerrno>

#include "block/base/error.h"
#include "block/graph/layer.h"
#include "block/qcow2/bitmaps.h"

namespace strata::qcow2 {
namespace {

constexpr uint64_t kGroupBits = DirtyBitmap::kGroupBits;
constexpr uint64_t kGroupBytes = kGroupBits / 8;
constexpr uint64_t kTableOffset = 0x00fffffffffffe00;
constexpr uint64_t kTableOnes = 1;

void check(Status status, std::string_view what) {
  if (!status.ok()) throw Error::from_errno(status.error_number(), "{}", what);
}

}  // namespace

// What the disk is to have at [offset, offset + bytes) of the bits: those in memory, and all of the
// groups that are covered, or are about to be.
std::vector<std::byte> PersistentBitmaps::contents(const Stored& stored, ByteRange bytes,
                                                   Groups covered) const {
  const DirtyBitmap& bitmap = *stored.bitmap;
  std::vector<std::byte> out(bytes.bytes);
  bitmap.serialize(bytes.offset, out);
  if (bitmap.keeper() == nullptr) return out;
  uint64_t bits = bitmap.bit_count();
  for (uint64_t group = bytes.offset / kGroupBytes; group * kGroupBytes < bytes.end(); ++group) {
    uint64_t first = group * kGroupBits;
    if (first >= bits) break;
    bool all = bitmap.covered().test(group) ||
               (group >= covered.first && group - covered.first < covered.count);
    for (uint64_t bit = first; all && bit < std::min(bits, first + kGroupBits); bit += 8) {
      uint64_t at = bit / 8;
      if (at < bytes.offset || at >= bytes.end()) continue;
      uint64_t left = std::min<uint64_t>(8, bits - bit);
      out[at - bytes.offset] = static_cast<std::byte>((1u << left) - 1);
    }
  }
  return out;
}

// A table entry gets a cluster: counted, filled and on the disk before the entry points to it.
Task<Status> PersistentBitmaps::give_cluster(Stored& stored, uint64_t cluster, ConstBytes content) {
  Result<HostCluster> place = co_await allocate(1);
  if (!place) co_return place.status();
  Allocation allocation(image_, *place, 1);
  HostOffset at = image_.geometry_.offset_of(*place);
  Status status = co_await image_.file_.write(at, content);
  if (status.ok()) status = co_await image_.write_back();
  if (status.ok()) status = co_await image_.flush_files();
  if (!status.ok()) co_return status;
  std::vector<std::byte> entry(8);
  store_be<uint64_t>(entry, 0, at.value);
  allocation.linked();
  status = co_await image_.file_.write(stored.table_offset + cluster * 8, entry);
  if (status.ok()) stored.table[cluster] = at.value;
  co_return status;
}

// `bytes` of the bits, within one cluster of them.
Task<Status> PersistentBitmaps::write_part(Stored& stored, uint64_t cluster, ByteRange bytes,
                                           Groups covered) {
  uint64_t place = stored.table[cluster];
  uint64_t cluster_size = image_.geometry_.cluster_size();
  if (place == kTableOnes && covered.count != 0) co_return Status();
  if ((place & kTableOffset) == 0) {
    std::vector<std::byte> all = contents(stored, {cluster * cluster_size, cluster_size}, covered);
    bool zero = std::all_of(all.begin(), all.end(), [](std::byte b) { return b == std::byte{0}; });
    if (zero && place == 0) co_return Status();
    co_return co_await give_cluster(stored, cluster, all);
  }
  HostOffset at = HostOffset(place & kTableOffset) + (bytes.offset - cluster * cluster_size);
  co_return co_await image_.file_.write(at, contents(stored, bytes, covered));
}

Task<Status> PersistentBitmaps::write_groups(Stored& stored, uint64_t first, uint64_t count,
                                             bool covered) {
  uint64_t cluster_size = image_.geometry_.cluster_size();
  Groups groups{&stored, covered ? first : 0, covered ? count : 0};
  uint64_t start = align_down(first * kGroupBytes, kSectorSize);
  uint64_t end = align_up((first + count) * kGroupBytes, kSectorSize);
  end = std::min(end, stored.table.size() * cluster_size);
  for (uint64_t at = start; at < end;) {
    uint64_t cluster = at / cluster_size;
    uint64_t stop = std::min(end, (cluster + 1) * cluster_size);
    Status status = co_await write_part(stored, cluster, {at, stop - at}, groups);
    if (!status.ok()) co_return status;
    at = stop;
  }
  co_return co_await image_.file_.flush();
}

Task<Status> PersistentBitmaps::cover(std::shared_ptr<DirtyBitmap> bitmap, ByteRange range) {
  Mutex::Lock lock = co_await mutex_.lock();
  if (!bitmap->needs_cover(range)) co_return Status();
  Stored* stored = find(*bitmap);
  uint64_t groups = (bitmap->bit_count() + kGroupBits - 1) / kGroupBits;
  uint64_t group = bitmap->granularity() * kGroupBits;
  uint64_t first = range.offset / group;
  uint64_t count = std::min(groups, (range.end() - 1) / group + 1) - first;
  Status status = Status::error(EIO);
  if (stored != nullptr) status = co_await write_groups(*stored, first, count, true);
  if (status.ok()) {
    bitmap->covered().set(first, count);
    if (!any_covered_.exchange(true)) last_checkpoint_ = std::chrono::steady_clock::now();
    co_return status;
  }
  // The write need not fail for that: from now on the disk says that it does not know.
  co_return co_await give_up();
}

Task<Status> PersistentBitmaps::give_up() {
  Status status = co_await mark_in_use();
  if (!status.ok()) co_return status;
  ahead_ = false;
  for (auto& [key, stored] : stored_) {
    stored.bitmap->keep_no_more();
    stored.bitmap->note_changed();
  }
  co_return Status();
}

bool PersistentBitmaps::checkpoint_due() const noexcept {
  return any_covered_.load(std::memory_order_relaxed) &&
         std::chrono::steady_clock::now() - last_checkpoint_.load() >= interval_;
}

// A writer who found his group covered may not have recorded his write yet: so groups are taken
// back while nobody writes. From then on a writer has them covered anew, after us.
Task<Status> PersistentBitmaps::checkpoint() {
  std::vector<Groups> groups;
  Mutex::Lock lock;
  {
    RangeLock::Hold hold(node_.io().writes, {0, kMaxLength}, RangeLock::Mode::exclusive);
    co_await hold.acquire();
    lock = co_await mutex_.lock();
    if (!ahead_) co_return Status();
    for (auto& [key, stored] : stored_) {
      BitTree& covered = stored.bitmap->covered();
      for (uint64_t at = covered.next_set(0, covered.size()); at < covered.size();) {
        uint64_t end = covered.next_clear(at, covered.size());
        groups.push_back({&stored, at, end - at});
        at = covered.next_set(end, covered.size());
      }
      covered.clear(0, covered.size());
    }
    any_covered_ = false;
  }
  for (const Groups& run : groups) {
    Status status = co_await write_groups(*run.stored, run.first, run.count, false);
    if (!status.ok()) co_return status;
  }
  co_return Status();
}

// Runs the action while nobody writes. What it changed counts as covered no more: writers wait for
// the lock, which the caller has then.
Task<std::vector<PersistentBitmaps::Stored*>> PersistentBitmaps::change_alone(
    const std::function<void()>& action, Mutex::Lock& lock) {
  RangeLock::Hold hold(node_.io().writes, {0, kMaxLength}, RangeLock::Mode::exclusive);
  co_await hold.acquire();
  lock = co_await mutex_.lock();
  action();
  std::vector<Stored*> changed;
  if (!ahead_) co_return changed;
  for (const DirtyBitmapPtr& bitmap : node_.bitmaps().all()) {
    if (!bitmap->is_persistent() || bitmap->is_inconsistent()) continue;
    bool is_new = !stored_.contains(bitmap.get());
    if (is_new && !bitmap->keep(*this)) throw Error::from_errno(ENOMEM, "Cannot keep bitmap");
    Stored& stored = stored_[bitmap.get()];
    stored.bitmap = bitmap;
    if (!bitmap->take_changed() && !is_new) continue;
    bitmap->covered().clear(0, bitmap->covered().size());
    changed.push_back(&stored);
  }
  co_return changed;
}

Task<Status> PersistentBitmaps::write_changed(std::vector<Stored*> changed) {
  for (Stored* stored : changed) {
    Status status = co_await store_bitmap(*stored, false);
    if (!status.ok()) co_return status;
  }
  std::vector<BitmapEntry> entries = directory();
  if (entries == image_.bitmaps_) co_return Status();
  co_return co_await commit_directory(std::move(entries));
}

// What a command changed is on the disk before it is answered.
Task<void> PersistentBitmaps::change(std::function<void()> action) {
  if (!writing_ || !ahead_) {
    action();
    co_return;
  }
  Mutex::Lock lock;
  std::vector<Stored*> changed = co_await change_alone(action, lock);
  Status status = co_await write_changed(std::move(changed));
  if (status.ok()) co_return;
  // A bitmap that is not in the image is none of it.
  std::erase_if(stored_, [&](auto& item) {
    const std::string& name = item.second.bitmap->name();
    bool known = std::any_of(image_.bitmaps_.begin(), image_.bitmaps_.end(),
                             [&](const BitmapEntry& entry) { return entry.name == name; });
    if (!known) item.second.bitmap->keep_no_more();
    return !known;
  });
  (void)co_await give_up();
  check(status, "Could not update bitmap directory");
}

Task<void> PersistentBitmaps::before_resize() {
  for (const BitmapEntry& entry : image_.bitmaps_) {
    DirtyBitmapPtr bitmap = node_.bitmaps().find(entry.name);
    if (!bitmap)
      throw Error("Cannot resize qcow2 with persistent bitmaps that were not loaded into memory");
    bitmap->check(DirtyBitmap::Use::change);
  }
  Mutex::Lock lock = co_await mutex_.lock();
  if (ahead_ && !stored_.empty()) check(co_await give_up(), "Could not update bitmap directory");
}

// Nobody writes when the disk is to be kept ahead again; who comes then waits for what it has.
Task<void> PersistentBitmaps::after_resize() {
  if (!writing_ || ahead_ || stored_.empty() || !node_.layer().keeps_bitmaps_ahead()) co_return;
  Mutex::Lock lock;
  {
    RangeLock::Hold hold(node_.io().writes, {0, kMaxLength}, RangeLock::Mode::exclusive);
    co_await hold.acquire();
    lock = co_await mutex_.lock();
    ahead_ = true;
    for (auto& [key, stored] : stored_) {
      ahead_ = ahead_ && stored.bitmap->keep(*this);
      stored.bitmap->take_changed();
    }
  }
  Status status;
  for (auto& [key, stored] : stored_) {
    if (status.ok() && ahead_) status = co_await store_bitmap(stored, true);
  }
  if (status.ok() && ahead_) status = co_await commit_directory(directory());
  if (!status.ok() || !ahead_) (void)co_await give_up();
}

}  // namespace strata::qcow2
