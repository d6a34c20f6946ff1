// SPDX-License-Identifier: GPL-2.0-or-later
//
// The state of a machine: it is mapped like the disk, behind the last table that the disk can need.
#include <cerrno>

#include "block/base/math.h"
#include "block/io/debug_event.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {

using qapi::BlkdebugEvent;

uint64_t Image::vm_state_offset() const noexcept {
  return geometry_.l1_entries_for(size()) << (geometry_.cluster_bits() + geometry_.l2_bits());
}

// Where `bytes` from `offset` of the state on lie; nothing where no table reaches.
std::optional<GuestOffset> Image::vm_state_at(uint64_t offset, uint64_t bytes) const noexcept {
  std::optional<uint64_t> at = checked_add(vm_state_offset(), offset);
  std::optional<uint64_t> end = at ? checked_add(*at, bytes) : std::nullopt;
  if (!end || *end > kMaxLength || geometry_.l1_entries_for(*end) * 8 > kMaxL1Bytes)
    return std::nullopt;
  return GuestOffset(*at);
}

Task<Status> Image::load_vm_state(uint64_t offset, IoVector into) {
  if (is_unusable()) co_return unusable();
  std::optional<GuestOffset> at = vm_state_at(offset, into.size());
  if (!at) co_return Status::error(EFBIG);
  co_await io::debug_event(file_.edge(), BlkdebugEvent::vmstate_load);
  Epochs::Pass pass = epochs_.enter();
  co_return co_await read_unlocked(*at, into);
}

Task<Status> Image::save_vm_state(uint64_t offset, IoVector from) {
  if (is_unusable()) co_return unusable();
  if (has_data_file()) co_return Status::error(ENOTSUP);
  std::optional<GuestOffset> at = vm_state_at(offset, from.size());
  if (!at) co_return Status::error(EFBIG);
  co_await io::debug_event(file_.edge(), BlkdebugEvent::vmstate_save);
  Status status = co_await before_first_write();
  uint64_t entries = geometry_.l1_entries_for(at->value + from.size());
  if (status.ok() && entries > l1_.size()) status = co_await grow_l1(entries);
  if (status.ok()) status = co_await write_mapped(at->value, from);
  co_return status;
}

// What becomes part of the disk must not show what was saved there.
Task<Status> Image::drop_vm_state(uint64_t new_size) {
  uint64_t table = geometry_.bytes_per_l2_table();
  uint64_t first = geometry_.l1_entries_for(size());
  uint64_t last = std::min<uint64_t>(geometry_.l1_entries_for(new_size), l1_.size());
  if (first >= last) co_return Status();
  co_return co_await wipe_clusters({first * table, (last - first) * table}, Wipe::forget);
}

}  // namespace strata::qcow2
