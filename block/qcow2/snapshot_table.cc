// SPDX-License-Identifier: GPL-2.0-or-later
//
// Reading the snapshot table, whatever is in it.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "block/base/error.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {
namespace {

constexpr size_t kFixedBytes = 40;
constexpr uint64_t kWindow = 64 * 1024;

// Bytes of the file, one after the other.
class Window {
 public:
  explicit Window(const ImageFile& file) noexcept : file_(file) {}

  // Appends what is at `at` to `out`.
  Task<Status> append(HostOffset at, size_t bytes, std::vector<std::byte>& out) {
    while (bytes != 0) {
      if (at < start_ || at - start_ >= buffer_.size()) {
        start_ = at;
        buffer_.resize(kWindow);
        Status status = co_await file_.read(at, buffer_);
        if (!status.ok()) co_return status;
      }
      size_t offset = at - start_;
      size_t count = std::min(bytes, buffer_.size() - offset);
      auto first = buffer_.begin() + static_cast<long>(offset);
      out.insert(out.end(), first, first + static_cast<long>(count));
      at = at + count;
      bytes -= count;
    }
    co_return Status();
  }

 private:
  const ImageFile& file_;
  HostOffset start_;
  std::vector<std::byte> buffer_;
};

// An entry as the table has it, but with no more extra data than is asked for.
Task<Status> read_entry(Window& window, HostOffset at, uint64_t extra, uint64_t keep,
                        std::vector<std::byte>& entry) {
  size_t names = size_t{load_be<uint16_t>(entry, 12)} + load_be<uint16_t>(entry, 14);
  store_be<uint32_t>(entry, 36, static_cast<uint32_t>(keep));
  Status status = co_await window.append(at + kFixedBytes, keep, entry);
  if (status.ok()) status = co_await window.append(at + kFixedBytes + extra, names, entry);
  co_return status;
}

void check_read(Status status) {
  if (!status.ok()) throw Error::from_errno(status.error_number(), "Failed to read snapshot table");
}

}  // namespace

Task<SnapshotTable> Image::read_snapshots(uint64_t count, bool repair) {
  SnapshotTable table;
  Window window(file_);
  const HostOffset start(header_.snapshots_offset);
  std::vector<std::byte> bytes;
  uint64_t kept_bytes = 0;
  for (uint64_t i = 0; i < count; ++i) {
    bytes.clear();
    HostOffset at = start + table.bytes;
    check_read(co_await window.append(at, kFixedBytes, bytes));
    uint64_t extra = load_be<uint32_t>(bytes, 36);
    bool too_much = extra > kMaxSnapshotExtraData;
    if (too_much && !repair)
      throw Error::from_text(fmt::format("Too much extra metadata in snapshot table entry {}", i),
                             EFBIG)
          .hint("You can force-remove this extra metadata with qemu-img check -r all\n");
    if (too_much) {
      table.mended.push_back(
          fmt::format("Discarding too much extra metadata in snapshot table entry {} ({} > {})", i,
                      extra, kMaxSnapshotExtraData));
      ++table.corruptions;
    }
    uint64_t keep = std::min<uint64_t>(extra, kMaxSnapshotExtraData);
    check_read(co_await read_entry(window, at, extra, keep, bytes));
    auto entry = parse_snapshot(bytes, header_.size);
    if (!entry) throw Error::from_text(entry.error().text, EINVAL);
    size_t names = size_t{load_be<uint16_t>(bytes, 12)} + load_be<uint16_t>(bytes, 14);
    uint64_t end = table.bytes + align_up(kFixedBytes + extra + names, 8);
    kept_bytes += align_up(kFixedBytes + keep + names, 8);
    if (kept_bytes > kMaxSnapshotTableBytes || (start + end).value > INT64_MAX) {
      uint64_t overhanging = count - i;
      if (!repair)
        throw Error::from_text("Snapshot table is too big", EFBIG)
            .hint(fmt::format("You can force-remove all {} overhanging snapshots with qemu-img "
                              "check -r all\n",
                              overhanging));
      table.mended.push_back(fmt::format(
          "Discarding {} overhanging snapshots (snapshot table is too big)", overhanging));
      table.overhanging = overhanging;
      co_return table;
    }
    table.bytes = end;
    table.snapshots.push_back(std::move(entry->snapshot));
  }
  co_return table;
}

Task<void> Image::load_snapshots() {
  SnapshotTable table = co_await read_snapshots(header_.nb_snapshots, false);
  snapshots_ = std::move(table.snapshots);
  snapshot_table_bytes_ = table.bytes;
  guard_range(header_.snapshots_offset, snapshot_table_bytes_);
  for (const Snapshot& snapshot : snapshots_) {
    uint64_t bytes = uint64_t{snapshot.l1_size} * 8;
    guard_range(snapshot.l1_offset.value, file_.bytes_there(snapshot.l1_offset, bytes));
  }
}

}  // namespace strata::qcow2
