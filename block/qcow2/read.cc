// SPDX-License-Identifier: GPL-2.0-or-later
//
// From an offset to its mapping, and from there to the data.
#include <fmt/format.h>
#include <algorithm>
#include <array>

#include <cerrno>

#include "block/base/aligned_buffer.h"
#include "block/qcow2/compression.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {
namespace {

// Entries looked at in one go.
constexpr size_t kMostEntries = 64;

}  // namespace

bool Image::try_lookup(GuestOffset offset, uint64_t bytes, Run& run) const noexcept {
  GuestCluster cluster = geometry_.cluster_of(offset);
  SliceIndex slice = l2_.slice_of(cluster);
  unsigned first = l2_.index_in_slice(cluster);
  uint64_t wanted = geometry_.clusters_for(geometry_.in_cluster(offset) + bytes);
  size_t count = std::min({wanted, l2_.slice_entries() - first, uint64_t{kMostEntries}});
  std::array<L2Entry, kMostEntries> entries;
  std::span<L2Entry> found(entries.data(), count);
  if (l2_.try_read(slice, first, found)) [[likely]] {
    run = map_run(rules(), found, offset, bytes);
    return true;
  }
  L1Index index = geometry_.l1_index(offset);
  if (l1_.load(index).offset().value != 0) return false;
  uint64_t table = geometry_.bytes_per_l2_table();
  run = Run{Unallocated{}, std::min(bytes, table - offset.value % table)};
  return true;
}

Task<Result<Run>> Image::lookup(GuestOffset offset, uint64_t bytes) {
  Run run;
  while (!try_lookup(offset, bytes, run)) {
    Status status = co_await load_slice(l2_.slice_of(geometry_.cluster_of(offset)));
    if (!status.ok()) co_return status;
  }
  co_return run;
}

// Ends when the slice is there, or was a moment ago, or need not be.
Task<Status> Image::load_slice(SliceIndex slice) {
  L2Cache::Claim claim = l2_.claim(slice);
  switch (claim.kind) {
    case L2Cache::Claim::Kind::resident:
      break;
    case L2Cache::Claim::Kind::wait:
      co_await claim.event->wait();
      break;
    case L2Cache::Claim::Kind::full:
      co_return co_await write_back();
    case L2Cache::Claim::Kind::filling:
      co_return co_await fill_slice(std::move(claim), slice);
  }
  co_return Status();
}

Task<Status> Image::fill_slice(L2Cache::Claim claim, SliceIndex slice) {
  L1Index index = l2_.l1_index(slice);
  HostOffset table = l1_.load(index).offset();
  Status status;
  AlignedBuffer buffer(l2_.slice_bytes());
  if (!buffer) {
    status = Status::error(ENOMEM);
  } else if (!geometry_.is_cluster_aligned(table.value)) {
    signal_corruption(
        fmt::format("L2 table offset {:#x} unaligned (L1 index: {:#x})", table.value, index.value),
        std::nullopt, 0, true);
    status = Status::error(EIO);
  } else if (table.value == 0) {
    std::fill_n(buffer.data(), buffer.size(), std::byte{0});
  } else {
    status = co_await file_.read(table + l2_.byte_offset(slice), {buffer.data(), buffer.size()});
  }
  if (status.ok())
    l2_.filled(claim, slice, {buffer.data(), buffer.size()});
  else
    l2_.failed(claim);
  co_return status;
}

Task<Status> Image::read(uint64_t offset, IoVector into) {
  if (is_unusable()) co_return Status::error(EIO);
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
  uint64_t inside = size() - std::min(size(), offset.value);
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
  if (const auto* data = run.get_if<Data>()) [[likely]]
    return read_data(data->host, offset, into);
  if (run.get_if<Unallocated>() != nullptr) return read_backing(offset, into);
  if (const auto* compressed = run.get_if<Compressed>())
    return read_compressed(compressed->extent, geometry_.in_cluster(offset), into);
  if (const auto* invalid = run.get_if<Invalid>()) {
    signal_invalid(*invalid, offset);
    return Task<Status>::ready(Status::error(EIO));
  }
  into.fill(std::byte{0});
  return Task<Status>::ready(Status());
}

Task<Status> Image::read_backing(GuestOffset offset, IoVector into) {
  Edge* base = backing();
  uint64_t length = base != nullptr ? base->node().length() : 0;
  if (offset.value >= length) {
    into.fill(std::byte{0});
    return Task<Status>::ready(Status());
  }
  // Behind the end of the backing file there are zeroes: block/io sees to that.
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
  AlignedBuffer out(geometry_.cluster_size());
  if (!in || !out) co_return Status::error(ENOMEM);
  Status status = co_await file_.read(extent.offset, {in.data(), in.size()});
  if (!status.ok()) co_return status;
  status = decompress_cluster(CompressionType(header_.compression_type), {in.data(), in.size()},
                              {out.data(), out.size()});
  if (status.ok()) into.copy_from(out.data() + in_cluster);
  co_return status;
}

}  // namespace strata::qcow2
