// SPDX-License-Identifier: GPL-2.0-or-later
//
// Loading and storing. Bits that are stored lie in clusters of their own; a directory that points
// to them is written to a new place, and the header's extension decides which one it is.
#include "block/qcow2/bitmaps.h"

#include <algorithm>
#include <bit>
#include <cerrno>

#include "block/base/error.h"

namespace strata::qcow2 {
namespace {

constexpr uint64_t kTableOffset = 0x00fffffffffffe00;
constexpr uint64_t kTableReserved = 0xff000000000001fe;
constexpr uint64_t kTableOnes = 1;
// Bits that are all ones take no room in an image, but in memory they do: so much for all bitmaps.
constexpr uint64_t kMaxBytesOfOnes = 16 * 1024 * 1024;

constexpr char kCannotAllocate[] = "Failed to allocate clusters for bitmap '{}'";
constexpr char kOverlaps[] = "Qcow2 overlap check failed";
constexpr char kCannotWrite[] = "Failed to write bitmap '{}' to file";

void check(Status status, std::string_view what) {
  if (!status.ok()) throw Error::from_errno(status.error_number(), "{}", what);
}

}  // namespace

PersistentBitmaps::Stored* PersistentBitmaps::find(const DirtyBitmap& bitmap) noexcept {
  auto found = stored_.find(&bitmap);
  return found != stored_.end() ? &found->second : nullptr;
}

uint64_t PersistentBitmaps::table_entries(const DirtyBitmap& bitmap) const noexcept {
  return image_.geometry_.clusters_for(bitmap.serialized_bytes());
}

Task<void> PersistentBitmaps::load() {
  // Tables and bits lie in clusters of their own: all of them together are no more than the file.
  uint64_t budget = image_.file_.length() + image_.geometry_.cluster_size() + kMaxBytesOfOnes;
  for (const BitmapEntry& entry : image_.bitmaps_) co_await load_bitmap(entry, budget);
}

Task<std::vector<uint64_t>> PersistentBitmaps::read_table(const BitmapEntry& entry) {
  std::vector<std::byte> bytes(uint64_t{entry.table_size} * 8);
  Status status = co_await image_.file_.read(entry.table_offset, bytes);
  std::vector<uint64_t> table(entry.table_size);
  for (size_t i = 0; i < table.size(); ++i) {
    table[i] = load_be<uint64_t>(bytes, i * 8);
    bool valid = (table[i] & kTableReserved) == 0 &&
                 ((table[i] & kTableOffset) == 0 || (table[i] & kTableOnes) == 0) &&
                 image_.geometry_.is_cluster_aligned(table[i] & kTableOffset);
    if (!valid) status = Status::error(EINVAL);
  }
  if (!status.ok())
    throw Error::from_errno(status.error_number(),
                            "Could not read bitmap_table table from image for bitmap '{}'",
                            entry.name);
  co_return table;
}

Task<void> PersistentBitmaps::load_bitmap(const BitmapEntry& entry, uint64_t& budget) {
  uint64_t size = align_up(image_.size(), kSectorSize);
  uint64_t granularity = uint64_t{1} << entry.granularity_bits;
  if (entry.in_use()) {
    node_.bitmaps().add(DirtyBitmap::inconsistent(entry.name, size, granularity));
    co_return;
  }
  auto take = [&](uint64_t bytes) {
    if (bytes > budget)
      throw Error::from_errno(EINVAL, "Could not read bitmap '{}' from image", entry.name);
    budget -= bytes;
  };
  take(uint64_t{entry.table_size} * 8);
  auto bitmap = std::make_shared<DirtyBitmap>(entry.name, size, granularity);
  if (table_entries(*bitmap) != entry.table_size)
    throw Error::from_errno(EINVAL, "Could not read bitmap '{}' from image", entry.name);
  std::vector<uint64_t> table = co_await read_table(entry);
  uint64_t cluster = image_.geometry_.cluster_size();
  Status status;
  for (size_t i = 0; i < table.size() && status.ok(); ++i) {
    uint64_t at = i * cluster;
    uint64_t bytes = std::min(cluster, bitmap->serialized_bytes() - at);
    if (table[i] == kTableOnes) {
      take(bytes);
      bitmap->deserialize_ones(at, bytes);
    } else if (table[i] != 0) {
      take(bytes);
      std::vector<std::byte> data(bytes);
      status = co_await image_.file_.read(HostOffset(table[i] & kTableOffset), data);
      // Bits behind the end should be none, but if there are they do no harm.
      if (status.ok()) (void)bitmap->deserialize(at, data);
    }
  }
  if (!status.ok())
    throw Error::from_errno(status.error_number(), "Could not read bitmap '{}' from image",
                            entry.name);
  bitmap->set_persistent(true);
  bitmap->set_enabled(entry.automatic());
  bitmap->set_read_only(true);  // until somebody writes to the image
  bitmap->take_changed();
  node_.bitmaps().add(bitmap);
  stored_[bitmap.get()] = {bitmap, entry.table_offset, std::move(table)};
}

Task<void> PersistentBitmaps::begin_writing(bool ahead) {
  writing_ = true;
  ahead_ = ahead;
  if (!image_.bitmaps_.empty())
    check(co_await image_.before_first_write(), "Could not update qcow2 header");
  for (auto& [key, stored] : stored_) {
    stored.bitmap->set_read_only(false);
    if (ahead_) ahead_ = stored.bitmap->keep(*this);
  }
  if (!ahead_) check(co_await give_up(), "Could not update bitmap directory");
}

// Each entry says it for itself and all are right until the first write, so that a directory of
// which only a part is on the disk is right, too.
Task<Status> PersistentBitmaps::mark_in_use() {
  if (!image_.extensions_.bitmaps) co_return Status();
  bool changed = false;
  for (BitmapEntry& entry : image_.bitmaps_) {
    changed = changed || !entry.in_use();
    entry.flags |= kBitmapInUse;
  }
  if (!changed) co_return Status();
  std::vector<std::byte> bytes = encode_bitmap_directory(image_.bitmaps_);
  Status status = co_await image_.file_.write(image_.extensions_.bitmaps->directory_offset, bytes);
  if (status.ok()) status = co_await image_.file_.flush();
  co_return status;
}

BitmapEntry PersistentBitmaps::entry_of(const Stored& stored) const {
  BitmapEntry entry;
  entry.name = stored.bitmap->name();
  entry.table_offset = stored.table_offset;
  entry.table_size = static_cast<uint32_t>(stored.table.size());
  entry.granularity_bits = static_cast<uint8_t>(std::countr_zero(stored.bitmap->granularity()));
  if (stored.bitmap->is_enabled()) entry.flags = kBitmapAuto;
  return entry;
}

// The entries there are, as they are to be; then new ones, the latest first as QEMU has them.
std::vector<BitmapEntry> PersistentBitmaps::directory() const {
  std::vector<BitmapEntry> entries;
  std::map<std::string_view, const Stored*> left;
  for (const auto& [key, stored] : stored_) {
    if (stored.table_offset.value != 0) left[stored.bitmap->name()] = &stored;
  }
  for (const BitmapEntry& old : image_.bitmaps_) {
    auto found = left.find(old.name);
    entries.push_back(found != left.end() ? entry_of(*found->second) : old);
    if (found != left.end()) left.erase(found);
  }
  const auto& all = node_.bitmaps().all();
  for (auto bitmap = all.rbegin(); bitmap != all.rend(); ++bitmap) {
    auto found = left.find((*bitmap)->name());
    if (found != left.end()) entries.push_back(entry_of(*found->second));
  }
  return entries;
}

Task<Result<HostCluster>> PersistentBitmaps::allocate(uint64_t clusters) {
  Mutex::Lock lock = co_await image_.metadata_.lock();
  Result<HostCluster> first = co_await image_.allocate_clusters(clusters);
  // What counts as free is metadata: nothing else makes an image unusable here.
  bool overlaps = !first && image_.is_unusable() && image_.refcounts_.corruption().empty();
  if (overlaps) what_failed_ = kOverlaps;
  if (!first) co_return first;
  image_.refcounts_.take_fresh(*first, clusters);
  co_return first;
}

void PersistentBitmaps::free_bitmap(const BitmapEntry& entry, const std::vector<uint64_t>& table) {
  const Geometry& geometry = image_.geometry_;
  for (uint64_t place : table) {
    if ((place & kTableOffset) != 0)
      image_.free_later(geometry.cluster_of(HostOffset(place & kTableOffset)), 1, FreedBy::other);
  }
  if (entry.table_offset.value != 0)
    image_.free_later(geometry.cluster_of(entry.table_offset),
                      geometry.clusters_for(uint64_t{entry.table_size} * 8), FreedBy::other);
}

// What the directory that is on the disk now does not refer to.
void PersistentBitmaps::free_replaced() {
  std::erase_if(replaced_, [&](const auto& item) {
    for (const BitmapEntry& entry : image_.bitmaps_)
      if (entry.table_offset == item.first.table_offset) return false;
    free_bitmap(item.first, item.second);
    return true;
  });
}

// Bits and table. With `rewrite` they get new places; else bits go where they are, which a power
// cut may leave half done: so only while what is there says no less than what will be.
Task<Status> PersistentBitmaps::store_bitmap(Stored& stored, bool rewrite) {
  const Geometry& geometry = image_.geometry_;
  uint64_t entries = table_entries(*stored.bitmap);
  if (entries == 0 || entries > kMaxBitmapTableEntries) co_return Status::error(EFBIG);
  uint64_t cluster = geometry.cluster_size();
  if (!rewrite && stored.table_offset.value != 0 && entries == stored.table.size()) {
    uint64_t groups =
        (stored.bitmap->bit_count() + DirtyBitmap::kGroupBits - 1) / DirtyBitmap::kGroupBits;
    co_return co_await write_groups(stored, 0, groups, false);
  }
  BitmapEntry old = entry_of(stored);
  std::vector<uint64_t> old_table = std::exchange(stored.table, {});
  stored.table.resize(entries);
  stored.table_offset = HostOffset();
  Status status;
  for (uint64_t i = 0; i < entries && status.ok(); ++i) {
    std::vector<std::byte> data = contents(stored, {i * cluster, cluster}, {});
    if (std::all_of(data.begin(), data.end(), [](std::byte b) { return b == std::byte{0}; }))
      continue;
    Result<HostCluster> place = co_await allocate(1);
    status = place.status();
    if (!status.ok() && what_failed_.empty()) what_failed_ = fmt::format(kCannotAllocate, old.name);
    if (!status.ok()) break;
    stored.table[i] = geometry.offset_of(*place).value;
    status = co_await image_.file_.write(geometry.offset_of(*place), data);
    if (!status.ok()) what_failed_ = fmt::format(kCannotWrite, old.name);
  }
  uint64_t clusters = geometry.clusters_for(entries * 8);
  if (status.ok()) {
    Result<HostCluster> place = co_await allocate(clusters);
    status = place.status();
    if (!status.ok() && what_failed_.empty()) what_failed_ = fmt::format(kCannotAllocate, old.name);
    if (status.ok()) {
      stored.table_offset = geometry.offset_of(*place);
      std::vector<std::byte> bytes(clusters * cluster);
      for (uint64_t i = 0; i < entries; ++i) store_be<uint64_t>(bytes, i * 8, stored.table[i]);
      status = co_await image_.file_.write(stored.table_offset, bytes);
      if (!status.ok()) what_failed_ = fmt::format(kCannotWrite, old.name);
    }
  }
  if (status.ok()) {
    if (old.table_offset.value != 0) replaced_.emplace_back(std::move(old), std::move(old_table));
  } else {
    free_bitmap(entry_of(stored), stored.table);
    stored.table = std::move(old_table);
    stored.table_offset = old.table_offset;
  }
  co_return status;
}

Task<Status> PersistentBitmaps::commit_directory(std::vector<BitmapEntry> entries) {
  const Geometry& geometry = image_.geometry_;
  std::vector<std::byte> bytes = encode_bitmap_directory(entries);
  if (entries.size() > kMaxBitmaps || bytes.size() > kMaxBitmapDirectoryBytes)
    co_return Status::error(EFBIG);
  std::optional<BitmapsExtension> extension;
  HostCluster place;
  uint64_t clusters = geometry.clusters_for(bytes.size());
  Status status;
  if (clusters != 0) {
    Result<HostCluster> first = co_await allocate(clusters);
    if (!first) co_return first.status();
    place = *first;
    status = co_await image_.file_.write(geometry.offset_of(place), bytes);
    extension = {static_cast<uint32_t>(entries.size()), bytes.size(), geometry.offset_of(place)};
  }
  Allocation allocation(image_, place, clusters);
  if (status.ok()) status = co_await image_.before_first_write();
  if (status.ok()) status = co_await image_.write_back();
  if (status.ok()) status = co_await image_.flush_files();
  if (!status.ok()) co_return status;
  std::optional<BitmapsExtension> old = image_.extensions_.bitmaps;
  allocation.linked();  // if the header could not be written, it may be there nevertheless
  status = co_await switch_directory(extension);
  if (!status.ok()) co_return status;
  if (old)
    image_.free_later(geometry.cluster_of(old->directory_offset),
                      geometry.clusters_for(old->directory_size), FreedBy::other);
  image_.bitmaps_ = std::move(entries);
  free_replaced();
  co_return Status();
}

// An extension that comes or goes changes more of the header than a disk writes at once: the bit
// that says whether it is to be believed is off meanwhile. Else only its numbers change.
Task<Status> PersistentBitmaps::switch_directory(std::optional<BitmapsExtension> extension) {
  Mutex::Lock lock = co_await image_.writing_back_.lock();
  Header header = image_.header_;
  std::optional<BitmapsExtension> before = image_.extensions_.bitmaps;
  Status status;
  bool in_steps = before.has_value() != extension.has_value();
  if (in_steps) {
    image_.header_.autoclear &= ~kAutoclearBitmaps;
    if (extension) image_.extensions_.bitmaps = extension;
    status = co_await image_.write_header();
  }
  if (status.ok()) {
    image_.extensions_.bitmaps = extension;
    if (extension) image_.header_.autoclear |= kAutoclearBitmaps;
    status = co_await image_.write_header();
  }
  if (!status.ok()) {
    image_.header_ = header;
    image_.extensions_.bitmaps = before;
  }
  co_return status;
}

Task<Status> PersistentBitmaps::store() {
  if (!writing_) co_return Status();
  if (ahead_) {
    Status status = co_await checkpoint();
    if (!status.ok()) co_return status;
  }
  Mutex::Lock lock = co_await mutex_.lock();
  co_return co_await store_locked();
}

void PersistentBitmaps::end_writing() noexcept {
  writing_ = ahead_ = false;
  for (auto& [key, stored] : stored_) {
    stored.bitmap->keep_no_more();
    stored.bitmap->set_read_only(true);
  }
}

Task<Status> PersistentBitmaps::store_locked() {
  for (const DirtyBitmapPtr& bitmap : node_.bitmaps().all()) {
    if (!bitmap->is_persistent() || bitmap->is_inconsistent()) continue;
    Stored& stored = stored_[bitmap.get()];
    stored.bitmap = bitmap;
    bool fits = stored.table_offset.value != 0 && stored.table.size() == table_entries(*bitmap);
    bool changed = bitmap->take_changed();
    if (fits && (ahead_ || !changed)) continue;
    Status status = co_await store_bitmap(stored, true);
    if (status.ok()) continue;
    bitmap->note_changed();
    co_return status;
  }
  std::vector<BitmapEntry> entries = directory();
  if (entries == image_.bitmaps_) co_return Status();
  co_return co_await commit_directory(std::move(entries));
}

void PersistentBitmaps::check_new(const std::string& name, uint64_t granularity) const {
  auto refuse = [&](std::string_view why) {
    throw Error("Can't make bitmap '{}' persistent in '{}': {}", name, node_.name(), why);
  };
  if (image_.header().version < 3) refuse("Cannot store dirty bitmaps in qcow2 v2 files");
  if (granularity < uint64_t{1} << kMinGranularityBits || granularity > uint64_t{1}
                                                                            << kMaxGranularityBits)
    refuse("Granularity is out of range");
  if (node_.bitmaps().find(name)) return;  // refused for that
  size_t count = image_.bitmaps_.size();
  uint64_t bytes = 24 + name.size() + 7;
  for (const BitmapEntry& entry : image_.bitmaps_) bytes += (24 + entry.name.size() + 7) / 8 * 8;
  for (const DirtyBitmapPtr& bitmap : node_.bitmaps().all()) {
    if (!bitmap->is_persistent() || bitmap->is_inconsistent() || stored_.contains(bitmap.get()))
      continue;
    ++count;
    bytes += (24 + bitmap->name().size() + 7) / 8 * 8;
  }
  if (count >= kMaxBitmaps) refuse("Maximum number of persistent bitmaps is already reached");
  if (bytes > kMaxBitmapDirectoryBytes) refuse("Not enough space in the bitmap directory");
}

Task<void> PersistentBitmaps::forget(std::string name) {
  Mutex::Lock lock = co_await mutex_.lock();
  std::vector<BitmapEntry> entries = image_.bitmaps_;
  auto entry = std::find_if(entries.begin(), entries.end(),
                            [&](const BitmapEntry& one) { return one.name == name; });
  DirtyBitmapPtr bitmap = node_.bitmaps().find(name);
  if (bitmap) bitmap->keep_no_more();
  if (entry != entries.end()) {
    BitmapEntry gone = *entry;
    std::vector<uint64_t> table;
    Stored* stored = bitmap ? find(*bitmap) : nullptr;
    try {
      table = stored != nullptr ? stored->table : co_await read_table(gone);
    } catch (const Error&) {
      // What a broken table refers to is left: check finds it.
    }
    // Where the directory does not know it yet; its old place is among those replaced.
    if (stored != nullptr) gone.table_offset = stored->table_offset;
    if (stored != nullptr) gone.table_size = static_cast<uint32_t>(stored->table.size());
    entries.erase(entry);
    Status status = co_await commit_directory(std::move(entries));
    // It stays, and is kept ahead no more.
    if (!status.ok() && writing_) (void)co_await give_up();
    check(status, "Failed to update bitmap extension");
    free_bitmap(gone, table);
  }
  if (bitmap) stored_.erase(bitmap.get());
}

}  // namespace strata::qcow2
