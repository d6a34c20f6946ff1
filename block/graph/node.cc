// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/graph/node.h"

#include <algorithm>

#include "block/base/error.h"
#include "block/graph/layer.h"
#include "qapi/runtime/json_writer.h"

namespace strata {
namespace {

uint64_t least_limit(uint64_t a, uint64_t b) noexcept {
  if (a == 0 || b == 0) return std::max(a, b);
  return std::min(a, b);
}

}  // namespace

Node::Node(BlockLayer& layer, std::string name, NodeOptions options)
    : layer_(layer),
      name_(std::move(name)),
      options_(options),
      home_context_(&layer.main_loop().context()) {
  layer_.add_node(*this);
}

Node::~Node() {
  layer_.remove_node(*this);
}

void Node::adopt_driver(std::unique_ptr<Driver> driver) noexcept {
  driver_ = std::move(driver);
  driver_->node_ = this;
  io_.hears_events = driver_->descriptor().hears_events;
}

Edge* Node::child(std::string_view name) const noexcept {
  for (const auto& edge : children_) {
    if (edge->name() == name && edge->node_ptr()) return edge.get();
  }
  return nullptr;
}

Edge* Node::child_in_role(ChildRole role) const noexcept {
  for (const auto& edge : children_) {
    if (edge->has_role(role) && edge->node_ptr()) return edge.get();
  }
  return nullptr;
}

Node* Node::backing() const noexcept {
  Edge* edge = child_in_role(ChildRole::cow);
  return edge != nullptr ? &edge->node() : nullptr;
}

Permissions Node::cumulative_permissions() const noexcept {
  Permissions all;
  for (const Edge* edge : parents_) {
    all.needed |= edge->permissions().needed;
    all.shared &= edge->permissions().shared;
  }
  return all;
}

std::string Node::display_name() const {
  FileName name = file_name();
  if (!name.exact.empty()) return name.exact;
  return "json:" + qapi::write_json(name.options);
}

Task<void> Node::refresh_length() {
  Result<uint64_t> length = co_await driver_->length();
  if (!length)
    throw Error::from_errno(length.error_number(), "Could not refresh total sector count");
  if (*length > kMaxLength) throw Error::from_errno(EFBIG, "Could not refresh total sector count");
  uint64_t rounded = align_up(*length, kSectorSize);
  if (io_.length.exchange(rounded, std::memory_order_acq_rel) == rounded) co_return;
  bitmaps_.resize(rounded);
  for (Edge* parent : parents_) parent->parent().child_resized();
}

void Node::refresh_limits() noexcept {
  Limits merged;
  for (const auto& edge : children_) {
    if (!edge->node_ptr()) continue;
    const Limits& child = edge->node().io().limits;
    merged.max_transfer = least_limit(merged.max_transfer, child.max_transfer);
    merged.optimal_transfer = std::max(merged.optimal_transfer, child.optimal_transfer);
    merged.min_memory_alignment = std::max(merged.min_memory_alignment, child.min_memory_alignment);
    merged.optimal_memory_alignment =
        std::max(merged.optimal_memory_alignment, child.optimal_memory_alignment);
    merged.max_iov = std::min(merged.max_iov, child.max_iov);
  }
  io_.limits = driver_->limits(merged);
}

}  // namespace strata
