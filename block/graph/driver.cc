// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/graph/driver.h"

#include <cerrno>

#include "block/base/error.h"
#include "block/graph/node.h"
#include "qapi/types_block_info.h"

namespace strata {

Task<Status> Driver::prefetch(uint64_t offset, uint64_t bytes) {
  Edge* filtered = node().child_in_role(ChildRole::filtered);
  if (filtered == nullptr) return Task<Status>::ready(Status());
  return filtered->node().driver().prefetch(offset, bytes);
}

Task<Status> Driver::pwritev(uint64_t, IoVector, WriteFlags) {
  return Task<Status>::ready(Status::error(ENOTSUP));
}

Task<Status> Driver::pwrite_zeroes(uint64_t, uint64_t, WriteFlags) {
  return Task<Status>::ready(Status::error(ENOTSUP));
}

Task<Status> Driver::pdiscard(uint64_t, uint64_t) {
  return Task<Status>::ready(Status::error(ENOTSUP));
}

Task<Result<BlockStatus>> Driver::block_status(uint64_t offset, uint64_t bytes, StatusWant) {
  BlockStatus status;
  status.bytes = bytes;
  Edge* filtered = node().child_in_role(ChildRole::filtered);
  if (descriptor_.is_filter && filtered != nullptr) {
    status.flags = {StatusFlag::raw, StatusFlag::offset_valid};
    status.file = &filtered->node();
    status.map_offset = offset;
  } else {
    status.flags = {StatusFlag::data, StatusFlag::allocated};
  }
  return Task<Result<BlockStatus>>::ready(status);
}

Task<Status> Driver::load_vm_state(uint64_t offset, IoVector into) {
  Edge* primary = node().child_in_role(ChildRole::primary);
  if (primary == nullptr) return Task<Status>::ready(Status::error(ENOTSUP));
  return primary->node().driver().load_vm_state(offset, into);
}

Task<Status> Driver::save_vm_state(uint64_t offset, IoVector from) {
  Edge* primary = node().child_in_role(ChildRole::primary);
  if (primary == nullptr) return Task<Status>::ready(Status::error(ENOTSUP));
  return primary->node().driver().save_vm_state(offset, from);
}

Task<void> Driver::prepare_reopen(ReopenContext&) {
  return Task<void>::ready();
}

Task<void> Driver::truncate(uint64_t, TruncateOptions) {
  throw Error("Image format driver does not support resize");
  co_return;
}

void Driver::check_new_bitmap(const std::string&, uint64_t) const {
  throw Error::from_errno(ENOTSUP, "Can't store persistent bitmaps to {}", node().name());
}

Task<void> Driver::change_bitmaps(std::function<void()> change) {
  change();
  co_return;
}

Permissions Driver::child_permissions(const Edge& child, Permissions of_parents) const {
  return default_child_permissions(child.roles(), of_parents, node().is_writable(),
                                   node().io().inactive);
}

std::unique_ptr<qapi::ImageInfoSpecific> Driver::specific_info() const {
  return nullptr;
}
std::unique_ptr<qapi::BlockStatsSpecific> Driver::specific_stats() const {
  return nullptr;
}

std::vector<qapi::SnapshotInfo> Driver::snapshots() const {
  return {};
}

std::optional<ImageFacts> Driver::image_facts() const {
  Edge* primary = node().child_in_role(ChildRole::primary);
  if (primary == nullptr || primary->has_role(ChildRole::metadata)) return std::nullopt;
  return primary->node().driver().image_facts();
}

std::optional<uint64_t> Driver::allocated_size() const {
  constexpr ChildRoles kOwn{ChildRole::data, ChildRole::metadata, ChildRole::filtered};
  uint64_t sum = 0;
  for (const auto& edge : node().children()) {
    if (!edge->node_ptr() || !edge->roles().has_any(kOwn)) continue;
    std::optional<uint64_t> child = edge->node().driver().allocated_size();
    if (!child) return std::nullopt;
    sum += *child;
  }
  return sum;
}

FileName Driver::file_name() const {
  FileName name;
  Edge* primary = node().child_in_role(ChildRole::primary);
  boost::json::object strong = strong_options();
  name.options["driver"] = std::string(descriptor_.format_name());
  if (primary != nullptr) {
    FileName child = primary->node().file_name();
    if (strong.empty()) name.exact = child.exact;
    name.options[primary->name()] = child.options;
  }
  for (auto& [key, value] : strong) name.options[key] = value;
  return name;
}

}  // namespace strata
