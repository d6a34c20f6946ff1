// SPDX-License-Identifier: GPL-2.0-or-later
//
// From an offset to its mapping, and from there to the data.
#include <fmt/format.h>
#include <algorithm>
#include <array>

#include <cerrno>

#include "block/aio/thread_pool.h"
#include "block/base/aligned_buffer.h"
#include "block/io/debug_event.h"
#include "block/qcow2/compression.h"
#include "block/qcow2/hex.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {
namespace {

// Entries looked at in one go.
constexpr size_t kMostEntries = 64;
constexpr uint64_t kMostTables = 512;

using qapi::BlkdebugEvent;

Task<Status> read_after_event(Edge& listener, BlkdebugEvent event, Edge& child, uint64_t offset,
                              IoVector into) {
  co_await io::debug_event(listener, event);
  co_return co_await io::preadv(child, offset, into);
}

}  // namespace

bool Image::try_lookup(GuestOffset offset, uint64_t bytes, Run& run) const noexcept {
  GuestCluster cluster = geometry_.cluster_of(offset);
  if (geometry_.in_cluster(offset) + bytes > geometry_.cluster_size())
    return try_lookup_many(offset, bytes, run);
  L2Entry entry;
  if (l2_.try_read(l2_.slice_of(cluster), l2_.index_in_slice(cluster), {&entry, 1})) [[likely]] {
    run = map_run(rules(), {&entry, 1}, offset, bytes);
    return true;
  }
  return try_lookup_table(offset, bytes, run);
}

size_t Image::entries_wanted(GuestOffset offset, uint64_t bytes) const noexcept {
  uint64_t wanted = geometry_.clusters_for(geometry_.in_cluster(offset) + bytes);
  uint64_t in_slice = l2_.slice_entries() - l2_.index_in_slice(geometry_.cluster_of(offset));
  return std::min({wanted, in_slice, uint64_t{kMostEntries}});
}

bool Image::try_lookup_many(GuestOffset offset, uint64_t bytes, Run& run) const noexcept {
  GuestCluster cluster = geometry_.cluster_of(offset);
  std::array<L2Entry, kMostEntries> entries;
  std::span<L2Entry> found(entries.data(), entries_wanted(offset, bytes));
  if (l2_.try_read(l2_.slice_of(cluster), l2_.index_in_slice(cluster), found)) {
    run = map_run(rules(), found, offset, bytes);
    return true;
  }
  return try_lookup_table(offset, bytes, run);
}

// Where there is no table, nothing has to be read; and on a disk of exbibytes there are millions.
// Not all are looked at: who asks again and again, since below there is something, gets an answer
// at once.
bool Image::try_lookup_table(GuestOffset offset, uint64_t bytes, Run& run) const noexcept {
  L1Index index = geometry_.l1_index(offset);
  if (l1_.load(index).offset().value != 0) return false;
  uint64_t table = geometry_.bytes_per_l2_table();
  uint64_t found = table - offset.value % table;
  const L1Index end = index + kMostTables;
  while (found < bytes && ++index < end && l1_.load(index).offset().value == 0) found += table;
  run = Run{Unallocated{}, std::min(bytes, found)};
  return true;
}

Task<Result<Run>> Image::lookup(GuestOffset offset, uint64_t bytes) {
  Run run;
  if (try_lookup(offset, bytes, run)) return Task<Result<Run>>::ready(run);
  return lookup_pinned(offset, bytes);
}

bool Image::is_surely_data(GuestOffset offset, uint64_t bytes) const noexcept {
  Run run;
  return try_lookup(offset, bytes, run) && run.bytes == bytes && run.get_if<Data>() != nullptr;
}

Task<Result<Run>> Image::lookup_pinned(GuestOffset offset, uint64_t bytes) {
  GuestCluster cluster = geometry_.cluster_of(offset);
  Result<L2Cache::Pin> pin = co_await pin_slice(l2_.slice_of(cluster));
  if (!pin) co_return pin.status();
  std::array<L2Entry, kMostEntries> entries;
  std::span<L2Entry> found(entries.data(), entries_wanted(offset, bytes));
  unsigned index = l2_.index_in_slice(cluster);
  for (L2Entry& entry : found) entry = pin->load(index++);
  co_return map_run(rules(), found, offset, bytes);
}

Task<Result<L2Cache::Pin>> Image::pin_slice(SliceIndex slice) {
  L2Cache::Waiter waiter(l2_, slice);
  while (!co_await waiter.turn()) {
    Status status = co_await make_room();
    if (!status.ok()) co_return status;
  }
  if (waiter.must_fill()) {
    Status status = co_await fill_slice(waiter, slice);
    if (!status.ok()) co_return status;
  }
  co_return waiter.take();
}

Task<Status> Image::fill_slice(L2Cache::Waiter& waiter, SliceIndex slice) {
  L1Index index = l2_.l1_index(slice);
  HostOffset table = l1_.load(index).offset();
  AlignedBuffer buffer(l2_.slice_bytes());
  if (!buffer) co_return Status::error(ENOMEM);
  if (!geometry_.is_cluster_aligned(table.value)) {
    signal_corruption(fmt::format("L2 table offset {} unaligned (L1 index: {})", hex(table.value),
                                  hex(index.value)),
                      std::nullopt, 0, true);
    co_return Status::error(EIO);
  }
  if (table.value == 0) {
    std::fill_n(buffer.data(), buffer.size(), std::byte{0});
  } else {
    co_await io::debug_event(file_.edge(), BlkdebugEvent::l2_load);
    Status status =
        co_await file_.read(table + l2_.byte_offset(slice), {buffer.data(), buffer.size()});
    if (!status.ok()) co_return status;
  }
  waiter.filled({buffer.data(), buffer.size()});
  co_return Status();
}

Task<Status> Image::read(uint64_t offset, IoVector into) {
  if (is_unusable()) co_return unusable();
  Epochs::Pass pass = epochs_.enter();
  Run run;
  GuestOffset at(offset);
  bool inside = offset + into.size() <= size();
  if (inside && try_lookup(at, into.size(), run) && run.bytes == into.size()) [[likely]]
    co_return co_await read_run(run, at, into);
  co_return co_await read_unlocked(at, into);
}

// The caller holds a pass of the epoch, or a lock that keeps the range's clusters from being freed.
Task<Status> Image::read_unlocked(GuestOffset offset, IoVector into) {
  uint64_t end = end_for(offset);
  uint64_t inside = end - std::min(end, offset.value);
  if (inside < into.size()) {
    into.slice(inside, into.size() - inside).fill(std::byte{0});
    into = into.slice(0, inside);
  }
  for (size_t done = 0; done < into.size();) {
    GuestOffset at = offset + done;
    Result<Run> run = co_await lookup(at, into.size() - done);
    if (!run) co_return run.status();
    Status status = co_await read_run(*run, at, into.slice(done, run->bytes));
    if (!status.ok()) co_return status;
    done += run->bytes;
  }
  co_return Status();
}

Task<Status> Image::read_run(const Run& run, GuestOffset offset, IoVector into) {
  if (const auto* data = run.get_if<Data>()) [[likely]] {
    if (file_.edge().node().io().hears_events && !encryption_) [[unlikely]]
      return read_after_event(file_.edge(), BlkdebugEvent::read_aio, *data_, data->host.value,
                              into);
    return read_data(data->host, offset, into);
  }
  if (run.get_if<Unallocated>() != nullptr) return read_backing(offset, into);
  if (const auto* compressed = run.get_if<Compressed>())
    return read_compressed(compressed->extent, geometry_.in_cluster(offset), into);
  if (const auto* invalid = run.get_if<Invalid>())
    return Task<Status>::ready(refuse_entry(*invalid, offset));
  into.fill(std::byte{0});
  return Task<Status>::ready(Status());
}

Task<Status> Image::read_backing(GuestOffset offset, IoVector into) {
  Edge* base = backing();
  // A backing file may be longer than this disk.
  uint64_t length = base != nullptr ? std::min(base->node().length(), size()) : 0;
  if (offset.value >= length) {
    into.fill(std::byte{0});
    return Task<Status>::ready(Status());
  }
  // Behind the end of the backing file there are zeroes: block/io sees to that.
  if (file_.edge().node().io().hears_events) [[unlikely]]
    return read_after_event(file_.edge(), BlkdebugEvent::read_backing_aio, *base, offset.value,
                            into);
  return io::preadv(*base, offset.value, into);
}

bool Image::backing_is_zero(ByteRange range) const noexcept {
  Edge* base = backing();
  return base == nullptr || range.offset >= base->node().length();
}

Task<Status> Image::read_compressed(CompressedExtent extent, uint64_t in_cluster, IoVector into) {
  // A descriptor may tell of more bytes than a cluster has; decoding stops when it is full.
  uint64_t bytes = std::min(extent.bytes, 2 * geometry_.cluster_size());
  AlignedBuffer in(bytes);
  if (!in) co_return Status::error(ENOMEM);
  co_await io::debug_event(file_.edge(), BlkdebugEvent::read_compressed);
  Status status = co_await file_.read(extent.offset, {in.data(), in.size()});
  if (!status.ok()) co_return status;
  auto type = CompressionType(header_.compression_type);
  ConstBytes packed(in.data(), in.size());
  uint64_t size = geometry_.cluster_size();
  if (std::byte* whole = into.size() == size ? into.contiguous() : nullptr) {
    // Waking another thread takes longer than that.
    constexpr uint64_t kDecodedAtOnce = 4096;
    if (size <= kDecodedAtOnce) co_return decompress_cluster(type, packed, {whole, size});
    // Who reads much reads on while other threads decode.
    co_return co_await AioContext::current()->service<ThreadPool>().run(
        [=] { return decompress_cluster(type, packed, {whole, size}); });
  }
  AlignedBuffer out(size);
  if (!out) co_return Status::error(ENOMEM);
  status = decompress_cluster(type, packed, {out.data(), out.size()});
  if (status.ok()) into.copy_from(out.data() + in_cluster);
  co_return status;
}

}  // namespace strata::qcow2
