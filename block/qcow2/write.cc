// SPDX-License-Identifier: GPL-2.0-or-later
//
// Writing data: where it may be overwritten, in place; else into clusters that are allocated for it
// and linked once the data is there.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "block/base/aligned_buffer.h"
#include "block/io/debug_event.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {
namespace {

constexpr uint64_t kMostAllocated = 2 * 1024 * 1024;  // bytes, in one piece
constexpr size_t kMostEntries = 64;
// So much may wait to be freed before somebody who writes sees to it.
constexpr uint64_t kMostFreed = 1024;
// And so much of what was discarded before somebody has the file grow instead.
constexpr uint64_t kMostDiscarded = 4 * 1024 * 1024;  // bytes

using qapi::BlkdebugEvent;

}  // namespace

Task<Status> Image::write(uint64_t offset, IoVector from) {
  if (is_unusable()) return Task<Status>::ready(unusable());
  if (!announced_.load(std::memory_order_acquire)) [[unlikely]]
    return write_first(offset, from);
  return write_announced(offset, from);
}

Task<Status> Image::write_first(uint64_t offset, IoVector from) {
  Status status = co_await before_first_write();
  if (!status.ok()) co_return status;
  co_return co_await write_announced(offset, from);
}

// Where all of it may be overwritten in place, that is all there is to do.
Task<Status> Image::write_announced(uint64_t offset, IoVector from) {
  {
    Epochs::Pass pass = epochs_.enter();
    Run run;
    if (try_lookup(GuestOffset(offset), from.size(), run) && run.bytes == from.size()) [[likely]] {
      const auto* data = run.get_if<Data>();
      if (data != nullptr && data->in_place && !may_hold_metadata(data->host, from.size()) &&
          !file_.edge().node().io().hears_events) [[likely]]
        co_return co_await write_data(data->host, GuestOffset(offset), from);
    }
  }
  co_return co_await write_mapped(offset, from);
}

Task<Status> Image::write_mapped(uint64_t offset, IoVector from) {
  // Only a help: what cannot be given back stays for another time.
  if (discarded_clusters_.load(std::memory_order_relaxed) << geometry_.cluster_bits() >
      kMostDiscarded)
    (void)co_await write_back();
  {
    Epochs::Pass pass = epochs_.enter();
    HostCluster behind;
    for (size_t done = 0; done < from.size();) {
      Result<uint64_t> written = co_await write_somewhere(
          GuestOffset(offset + done), from.slice(done, from.size() - done), behind);
      if (!written) co_return written.status();
      done += *written;
    }
  }
  if (freed_clusters_.load(std::memory_order_relaxed) > kMostFreed) co_return co_await write_back();
  co_return Status();
}

// Writes some of the front of `from`, and says how much: perhaps nothing, if something changed
// meanwhile. What is allocated goes behind what the request has already, if there is room: `behind`
// is where that would be.
Task<Result<uint64_t>> Image::write_somewhere(GuestOffset offset, IoVector from,
                                              HostCluster& behind) {
  Result<Run> run = co_await lookup(offset, from.size());
  if (!run) co_return run.status();
  const auto* data = run->get_if<Data>();
  if (data != nullptr && !data->in_place) data = nullptr;
  if (data != nullptr && run->bytes == from.size())
    co_return co_await write_in_place(data->host, offset, from);
  if (const auto* invalid = run->get_if<Invalid>()) {
    L2Entry entry{invalid->entry, 0};
    bool misplaced = !entry.is_compressed() && entry.copied() &&
                     !geometry_.is_cluster_aligned(entry.offset().value);
    if (!misplaced) co_return refuse_entry(*invalid, offset);
    signal_misplaced(entry, offset);
    co_return Status::error(EIO);
  }
  GuestCluster first = geometry_.cluster_of(offset);
  uint64_t wanted = geometry_.clusters_for(geometry_.in_cluster(offset) + from.size());
  uint64_t in_slice = l2_.slice_entries() - l2_.index_in_slice(first);
  uint64_t most = std::max<uint64_t>(1, kMostAllocated >> geometry_.cluster_bits());
  size_t count = std::min({wanted, in_slice, uint64_t{kMostEntries}, most});
  std::array<L2Entry, kMostEntries> entries;
  Status status = co_await read_entries(first, {entries.data(), count});
  if (!status.ok()) co_return status;
  Plan plan = plan_write(offset, from.size(), {entries.data(), count});
  if (plan.way == Way::in_place) {
    if (data == nullptr) co_return uint64_t{0};
    co_return co_await write_in_place(data->host, offset, from.slice(0, run->bytes));
  }
  if (plan.way == Way::invalid) {
    signal_misplaced(entries[0], offset);
    co_return Status::error(EIO);
  }
  co_return co_await write_planned(plan, from, behind);
}

Task<Result<uint64_t>> Image::write_in_place(HostOffset host, GuestOffset guest, IoVector from) {
  Status status = co_await check_in_place(host, from.size());
  if (!status.ok()) co_return status;
  co_await io::debug_event(file_.edge(), BlkdebugEvent::write_aio);
  status = co_await write_data(host, guest, from);
  if (!status.ok()) co_return status;
  co_return from.size();
}

Task<Status> Image::read_entries(GuestCluster first, std::span<L2Entry> entries) {
  SliceIndex slice = l2_.slice_of(first);
  unsigned index = l2_.index_in_slice(first);
  if (l2_.try_read(slice, index, entries)) co_return Status();
  if (l1_.load(geometry_.l1_index(first)).offset().value == 0) {
    std::fill(entries.begin(), entries.end(), L2Entry{});
    co_return Status();
  }
  Result<L2Cache::Pin> pin = co_await pin_slice(slice);
  if (!pin) co_return pin.status();
  for (L2Entry& entry : entries) entry = pin->load(index++);
  co_return Status();
}

// `in_cluster`: what is to be written of the cluster.
Image::Way Image::way_of(const L2Entry& entry, ByteRange in_cluster) const noexcept {
  if (entry.is_compressed()) return Way::replace;
  HostOffset cluster = entry.offset();
  bool placed = cluster.value != 0 || (has_data_file() && entry.copied());
  if (!placed) return Way::fresh;
  if (!geometry_.is_cluster_aligned(cluster.value)) return Way::invalid;
  if (!entry.copied() && !has_data_file()) return Way::replace;
  uint64_t unit = geometry_.subcluster_size();
  for (uint64_t at = in_cluster.offset / unit; at * unit < in_cluster.end(); ++at) {
    auto kind = entry.subcluster(static_cast<unsigned>(at), geometry_, has_data_file());
    if (kind == SubclusterKind::invalid) return Way::invalid;
    if (kind != SubclusterKind::normal) return Way::reserved;
  }
  return Way::in_place;
}

// Whether the plan may have the next cluster, too: with one that is reserved go those beside it
// that stay where they are, in one write.
bool Image::goes_on(const Plan& plan, Way way, const L2Entry& entry, bool whole) const noexcept {
  if (!stays(plan.way)) return way == plan.way && (whole || !geometry_.extended_l2());
  return stays(way) &&
         entry.offset() == plan.reserved + (plan.clusters << geometry_.cluster_bits());
}

Image::Plan Image::plan_write(GuestOffset offset, uint64_t bytes,
                              std::span<const L2Entry> entries) const {
  uint64_t size = geometry_.cluster_size();
  uint64_t in_first = geometry_.in_cluster(offset);
  Plan plan;
  plan.first = geometry_.cluster_of(offset);
  uint64_t left = bytes;
  Way first_way = Way::invalid;
  Way last_way = Way::invalid;
  for (const L2Entry& entry : entries) {
    ByteRange part{plan.clusters == 0 ? in_first : 0, 0};
    part.bytes = std::min(left, size - part.offset);
    Way way = way_of(entry, part);
    bool whole = part.bytes == size;
    if (plan.clusters != 0 && !goes_on(plan, way, entry, whole)) break;
    if (plan.clusters == 0) plan.reserved = entry.offset();
    if (plan.clusters == 0 || way == Way::reserved) plan.way = way;
    ++plan.clusters;
    left -= part.bytes;
    if (plan.clusters == 1) first_way = way;
    last_way = way;
    bool alone = way == Way::invalid || (geometry_.extended_l2() && (stays(way) || !whole));
    if (alone || left == 0) break;
  }
  plan.range = {offset.value, bytes - left};
  ByteRange unit =
      plan.range.aligned_out(plan.way == Way::replace ? size : geometry_.subcluster_size());
  // Around what stays there is data, which others may be writing to: in a subcluster that is data
  // already, too.
  auto is_data = [&](const L2Entry& entry, uint64_t at) {
    uint64_t index = geometry_.in_cluster(GuestOffset(at)) / geometry_.subcluster_size();
    return plan.way == Way::reserved && entry.subcluster(static_cast<unsigned>(index), geometry_,
                                                         has_data_file()) == SubclusterKind::normal;
  };
  bool stays_before = first_way == Way::in_place || is_data(entries[0], plan.range.offset);
  bool stays_behind =
      last_way == Way::in_place || is_data(entries[plan.clusters - 1], plan.range.end() - 1);
  uint64_t start = stays_before ? plan.range.offset : unit.offset;
  uint64_t end = stays_behind ? plan.range.end() : unit.end();
  plan.unit = {start, end - start};
  return plan;
}

Task<Result<uint64_t>> Image::write_planned(Plan plan, IoVector from, HostCluster& behind) {
  RangeLock::Hold hold(allocating_, plan.unit, RangeLock::Mode::exclusive);
  co_await hold.acquire();
  // Whoever held it before may have done what this was about to do.
  std::array<L2Entry, kMostEntries> entries;
  std::span<L2Entry> now(entries.data(), plan.clusters);
  Status status = co_await read_entries(plan.first, now);
  if (!status.ok()) co_return status;
  Plan again = plan_write(GuestOffset(plan.range.offset), plan.range.bytes, now);
  bool same = again.way == plan.way && plan.unit.contains(again.unit);
  if (!same) co_return uint64_t{0};
  from = from.slice(0, again.range.bytes);
  bool shared = geometry_.extended_l2() && !has_data_file() && again.way == Way::fresh &&
                again.unit.bytes < geometry_.cluster_size();
  if (again.way == Way::reserved) {
    status = co_await check_in_place(again.reserved, again.clusters << geometry_.cluster_bits());
    if (status.ok()) status = co_await write_with_edges(again, again.reserved, false, from);
    if (status.ok()) status = co_await link(again, again.reserved, nullptr);
  } else if (shared) {
    status = co_await write_shared(again, from);
  } else {
    status = co_await write_allocated(again, from, behind);
  }
  if (!status.ok()) co_return status;
  co_return again.range.bytes;
}

void Image::shorten(Plan& plan, uint64_t clusters, const Geometry& geometry) noexcept {
  if (clusters == plan.clusters) return;
  plan.clusters = clusters;
  uint64_t end = geometry.offset_of(plan.first + clusters).value;
  plan.range.bytes = std::min(plan.range.end(), end) - plan.range.offset;
  plan.unit.bytes = std::min(plan.unit.end(), end) - plan.unit.offset;
}

Task<Status> Image::write_allocated(Plan& plan, IoVector from, HostCluster& behind) {
  if (has_data_file()) {
    HostOffset same(geometry_.offset_of(plan.first).value);
    Status status = co_await write_with_edges(plan, same, false, from);
    if (!status.ok()) co_return status;
    co_return co_await link(plan, same, nullptr);
  }
  // First the table: so it lies before the data, as in QEMU's images. What it has is known before
  // it is on the disk.
  Changing changing;
  Status status = co_await begin_change(changing, l2_.slice_of(plan.first));
  if (!status.ok()) co_return status;
  changing.slice = {};
  Mutex::Lock lock = std::move(changing.lock);
  uint64_t clusters = plan.clusters;
  Result<HostCluster> first = co_await allocate_behind(behind, clusters);
  if (!first) co_return first.status();
  shorten(plan, clusters, geometry_);
  from = from.slice(0, plan.range.bytes);
  bool fresh = refcounts_.take_fresh(*first, plan.clusters);
  lock.unlock();
  behind = *first + plan.clusters;
  Allocation allocation(*this, *first, plan.clusters);
  HostOffset host = geometry_.offset_of(*first);
  if (fresh) co_await grow_tail(host + (plan.clusters << geometry_.cluster_bits()));
  status = co_await write_with_edges(plan, host, fresh, from);
  if (!status.ok()) co_return status;
  co_return co_await link(plan, host, &allocation);
}

// Several writers of one new cluster, each for subclusters of his own: the first allocates it, and
// each links what is his. The last to leave gives it back if none could.
Task<Status> Image::write_shared(const Plan& plan, IoVector from) {
  uint64_t key = plan.first.value;
  Mutex::Lock lock = co_await metadata_.lock();
  if (pending_.find(key) == pending_.end()) {
    Status status = co_await prepare_table(geometry_.l1_index(plan.first));
    if (!status.ok()) co_return status;
    Result<HostCluster> cluster = co_await allocate_clusters(1);
    if (!cluster) co_return cluster.status();
    bool fresh = refcounts_.take_fresh(*cluster, 1);
    pending_[key] = {geometry_.offset_of(*cluster), 0, fresh, false};
  }
  PendingCluster& pending = pending_[key];
  ++pending.users;
  lock.unlock();
  if (pending.fresh) co_await grow_tail(pending.host + geometry_.cluster_size());
  Status status = co_await write_with_edges(plan, pending.host, pending.fresh, from);
  if (status.ok()) status = co_await link(plan, pending.host, nullptr);
  lock = co_await metadata_.lock();
  if (status.ok()) pending.linked = true;
  if (--pending.users == 0) {
    if (!pending.linked) free_later(geometry_.cluster_of(pending.host), 1, FreedBy::other);
    pending_.erase(key);
  }
  co_return status;
}

Task<bool> Image::edge_is_zero(ByteRange range) {
  Result<Run> run = co_await lookup(GuestOffset(range.offset), range.bytes);
  if (!run || run->bytes < range.bytes) co_return false;
  if (run->get_if<Zero>() != nullptr) co_return true;
  co_return run->get_if<Unallocated>() != nullptr&& backing_is_zero(range);
}

// Writes the data, and around it what makes its first and last unit whole. `host` is where the
// plan's first cluster goes; `fresh`: it reads as zeroes as it is.
Task<Status> Image::write_with_edges(const Plan& plan, HostOffset host, bool fresh, IoVector from) {
  // Zeroes that have not been encrypted are none for the guest.
  fresh = fresh && !encryption_ && file_.edge().node().driver().has_zero_init();
  ByteRange head{plan.unit.offset, plan.range.offset - plan.unit.offset};
  ByteRange tail{plan.range.end(), plan.unit.end() - plan.range.end()};
  bool zero_head = head.empty() || co_await edge_is_zero(head);
  bool zero_tail = tail.empty() || co_await edge_is_zero(tail);
  if (fresh && zero_head) head = {plan.range.offset, 0};
  if (fresh && zero_tail) tail = {plan.range.end(), 0};
  HostOffset at = host + (head.offset - geometry_.offset_of(plan.first).value);
  if (head.empty() && tail.empty()) {
    co_await io::debug_event(file_.edge(), BlkdebugEvent::write_aio);
    co_return co_await write_data(at, GuestOffset(head.offset), from);
  }

  AlignedBuffer edges(head.bytes + tail.bytes);
  if (!edges) co_return Status::error(ENOMEM);
  std::memset(edges.data(), 0, edges.size());
  IoVector before = IoVector::buffer(edges.data(), head.bytes);
  IoVector after = IoVector::buffer(edges.data() + head.bytes, tail.bytes);
  Status status;
  if (!zero_head || !zero_tail) co_await io::debug_event(file_.edge(), BlkdebugEvent::cow_read);
  if (!zero_head) status = co_await read_unlocked(GuestOffset(head.offset), before);
  if (status.ok() && !zero_tail) status = co_await read_unlocked(GuestOffset(tail.offset), after);
  if (!status.ok()) co_return status;
  std::vector<iovec> parts(from.parts() + 2);
  parts[0] = {edges.data(), head.bytes};
  size_t middle = from.export_to(std::span(parts).subspan(1));
  parts[1 + middle] = {edges.data() + head.bytes, tail.bytes};
  std::span<const iovec> all(parts.data(), middle + 2);
  if (head.empty()) all = all.subspan(1);
  if (tail.empty()) all = all.first(all.size() - 1);
  co_await io::debug_event(file_.edge(), BlkdebugEvent::cow_write);
  co_await io::debug_event(file_.edge(), BlkdebugEvent::write_aio);
  co_return co_await write_data(at, GuestOffset(head.offset), IoVector(all));
}

L2Entry Image::linked_entry(const Plan& plan, const L2Entry& old, GuestCluster cluster,
                            HostOffset host) const noexcept {
  if (plan.as == Plan::As::zeroes) return L2Entry::zero(host, true, geometry_);
  L2Entry entry = L2Entry::data(host, geometry_);
  if (plan.as == Plan::As::unallocated) {
    entry.bitmap = 0;
    return entry;
  }
  if (!geometry_.extended_l2() || plan.way == Way::replace) return entry;
  uint64_t start = geometry_.offset_of(cluster).value;
  uint64_t first = std::max(plan.unit.offset, start) - start;
  uint64_t last = std::min(plan.unit.end(), start + geometry_.cluster_size()) - start;
  entry.bitmap = old.bitmap;
  for (uint64_t at = align_down(first, geometry_.subcluster_size()); at < last;
       at += geometry_.subcluster_size()) {
    uint64_t index = at / geometry_.subcluster_size();
    entry.bitmap |= uint64_t{1} << index;
    entry.bitmap &= ~(uint64_t{1} << (index + 32));
  }
  return entry;
}

// The data is in the cluster at `host` and those behind it: from now on they are the guest's.
Task<Status> Image::link(const Plan& plan, HostOffset host, Allocation* allocation) {
  Changing changing;
  Status status = co_await begin_change(changing, l2_.slice_of(plan.first));
  if (!status.ok()) co_return status;
  unsigned index = l2_.index_in_slice(plan.first);
  for (uint64_t i = 0; i < plan.clusters; ++i) {
    L2Entry old = changing.slice.load(index + static_cast<unsigned>(i));
    HostOffset place = host + i * geometry_.cluster_size();
    changing.slice.store(index + static_cast<unsigned>(i),
                         linked_entry(plan, old, plan.first + i, place));
    if (old.is_compressed() || old.offset() != place) free_entry(old, FreedBy::other);
  }
  if (allocation != nullptr) allocation->linked();
  co_return Status();
}

}  // namespace strata::qcow2
