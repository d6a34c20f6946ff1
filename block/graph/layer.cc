// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/graph/layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <random>

#include "block/aio/run_in.h"
#include "block/base/error.h"
#include "block/graph/drain.h"

namespace strata {
namespace {

constexpr size_t kLongestNodeName = 31;

}  // namespace

bool is_wellformed_id(std::string_view id) noexcept {
  auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  if (id.empty() || !is_letter(id.front())) return false;
  return std::all_of(id.begin(), id.end(), [&](char c) {
    return is_letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
  });
}

BlockLayer::BlockLayer(MainLoop& loop, std::span<const DriverDescriptor* const> drivers,
                       EventSink events)
    : loop_(loop), drivers_(drivers), events_(std::move(events)) {}

BlockLayer::~BlockLayer() {
  monitor_nodes_.clear();
  assert(nodes_.empty() && "a BlockLayer ends after its nodes");
}

const DriverDescriptor* BlockLayer::find_driver(qapi::BlockdevDriver name) const noexcept {
  for (const DriverDescriptor* driver : drivers_) {
    if (driver->name == name) return driver;
  }
  return nullptr;
}

NodePtr BlockLayer::find_node(std::string_view name) const noexcept {
  for (Node* node : nodes_) {
    if (node->name() == name) return node->shared_from_this();
  }
  return nullptr;
}

NodePtr BlockLayer::lookup_node(std::string_view name) const {
  if (NodePtr node = find_node(name); node && node->is_open()) return node;
  throw Error("Cannot find device='{}' nor node-name='{}'", name, name);
}

std::string BlockLayer::secret(std::string_view id) const {
  std::optional<std::string> found =
      surroundings_.find_secret ? surroundings_.find_secret(id) : std::nullopt;
  if (!found) throw Error("No secret with id '{}'", id);
  return std::move(*found);
}

bool BlockLayer::is_monitor_node(const Node& node) const noexcept {
  return std::any_of(monitor_nodes_.begin(), monitor_nodes_.end(),
                     [&](const NodePtr& owned) { return owned.get() == &node; });
}

void BlockLayer::forget_monitor_node(const Node& node) noexcept {
  std::erase_if(monitor_nodes_, [&](const NodePtr& owned) { return owned.get() == &node; });
}

void BlockLayer::remove_node(Node& node) noexcept {
  std::erase(nodes_, &node);
}

// The two random digits keep scripts from relying on the numbers.
std::string BlockLayer::generate_node_name() {
  static thread_local std::minstd_rand random{std::random_device{}()};
  for (;;) {
    std::string name = fmt::format("#block{}{:02}", next_node_number_++, random() % 100);
    if (!find_node(name)) return name;
  }
}

void BlockLayer::check_node_name(std::string_view name) const {
  if (!is_wellformed_id(name)) throw Error("Invalid node-name: '{}'", name);
  if (find_node(name)) throw Error("Duplicate nodes with node-name='{}'", name);
  if (name.size() > kLongestNodeName) throw Error("Node name too long");
}

void BlockLayer::emit(std::string_view event, boost::json::object data) {
  if (!events_) return;
  if (loop_.context().is_current()) return events_(event, std::move(data));
  post(loop_.context(),
       [this, name = std::string(event), data = std::move(data)] { events_(name, data); });
}

// `references` are the caller's own: with no others, this node is about to go.
Task<void> BlockLayer::close_if_last(MainLoop& loop, Node& node, long references) {
  if (node.weak_from_this().use_count() > references || !node.has_driver()) co_return;
  if (node.is_writable()) (void)co_await flush_tree(node);
  co_await node.driver().close(loop);
  for (const auto& edge : node.children()) {
    if (edge->node_ptr()) co_await close_if_last(loop, edge->node(), 1);
  }
}

Task<void> BlockLayer::release(MainLoop& loop, NodePtr node) {
  co_await close_if_last(loop, *node, 1);
}

}  // namespace strata
