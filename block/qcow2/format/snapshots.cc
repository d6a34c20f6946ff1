// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/format/snapshots.h"

#include <algorithm>
#include <cerrno>

#include "block/qcow2/format/text.h"

namespace strata::qcow2 {
namespace {

constexpr size_t kFixedBytes = 40;
constexpr size_t kKnownExtraBytes = 24;  // VM state size, disk size, icount

}  // namespace

Decoded<SnapshotEntry> parse_snapshot(ConstBytes bytes, uint64_t disk_size) {
  const FormatError too_short{ENODATA, "Failed to read snapshot table"};
  if (bytes.size() < kFixedBytes) return too_short;
  SnapshotEntry entry;
  Snapshot& snapshot = entry.snapshot;
  snapshot.l1_offset = HostOffset(load_be<uint64_t>(bytes, 0));
  snapshot.l1_size = load_be<uint32_t>(bytes, 8);
  size_t id_size = load_be<uint16_t>(bytes, 12);
  size_t name_size = load_be<uint16_t>(bytes, 14);
  snapshot.date_seconds = load_be<uint32_t>(bytes, 16);
  snapshot.date_nanoseconds = load_be<uint32_t>(bytes, 20);
  snapshot.vm_clock_ns = load_be<uint64_t>(bytes, 24);
  snapshot.vm_state_size = load_be<uint32_t>(bytes, 32);
  snapshot.extra_data_size = load_be<uint32_t>(bytes, 36);
  size_t extra = snapshot.extra_data_size;
  if (bytes.size() - kFixedBytes < extra + id_size + name_size) return too_short;
  snapshot.disk_size = disk_size;
  if (extra >= 8) snapshot.vm_state_size = load_be<uint64_t>(bytes, kFixedBytes);
  if (extra >= 16) snapshot.disk_size = load_be<uint64_t>(bytes, kFixedBytes + 8);
  if (extra >= 24) snapshot.icount = load_be<uint64_t>(bytes, kFixedBytes + 16);
  if (extra > kKnownExtraBytes) {
    ConstBytes unknown = bytes.subspan(kFixedBytes + kKnownExtraBytes, extra - kKnownExtraBytes);
    snapshot.unknown_extra_data.assign(unknown.begin(), unknown.end());
  }
  snapshot.id = to_name(bytes.subspan(kFixedBytes + extra, id_size));
  snapshot.name = to_name(bytes.subspan(kFixedBytes + extra + id_size, name_size));
  entry.bytes = (kFixedBytes + extra + id_size + name_size + 7) / 8 * 8;
  return entry;
}

void append_snapshot(std::vector<std::byte>& out, const Snapshot& snapshot) {
  size_t extra = kKnownExtraBytes + snapshot.unknown_extra_data.size();
  size_t start = out.size();
  size_t used = kFixedBytes + extra + snapshot.id.size() + snapshot.name.size();
  out.resize(start + (used + 7) / 8 * 8);
  Bytes bytes = Bytes(out).subspan(start);
  store_be<uint64_t>(bytes, 0, snapshot.l1_offset.value);
  store_be<uint32_t>(bytes, 8, snapshot.l1_size);
  store_be<uint16_t>(bytes, 12, static_cast<uint16_t>(snapshot.id.size()));
  store_be<uint16_t>(bytes, 14, static_cast<uint16_t>(snapshot.name.size()));
  store_be<uint32_t>(bytes, 16, snapshot.date_seconds);
  store_be<uint32_t>(bytes, 20, snapshot.date_nanoseconds);
  store_be<uint64_t>(bytes, 24, snapshot.vm_clock_ns);
  bool fits = snapshot.vm_state_size <= UINT32_MAX;
  store_be<uint32_t>(bytes, 32, fits ? static_cast<uint32_t>(snapshot.vm_state_size) : 0);
  store_be<uint32_t>(bytes, 36, static_cast<uint32_t>(extra));
  store_be<uint64_t>(bytes, 40, snapshot.vm_state_size);
  store_be<uint64_t>(bytes, 48, snapshot.disk_size);
  store_be<uint64_t>(bytes, 56, snapshot.icount);
  auto at = bytes.begin() + kFixedBytes + kKnownExtraBytes;
  at = std::copy(snapshot.unknown_extra_data.begin(), snapshot.unknown_extra_data.end(), at);
  auto put = [&](const std::string& text) {
    ConstBytes source = std::as_bytes(std::span(text));
    at = std::copy(source.begin(), source.end(), at);
  };
  put(snapshot.id);
  put(snapshot.name);
}

}  // namespace strata::qcow2
