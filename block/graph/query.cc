// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/graph/query.h"

#include <algorithm>
#include <array>
#include <unordered_map>

#include "block/graph/bitmaps.h"

namespace strata {
namespace {

int64_t backing_depth(const Node& node) {
  int64_t depth = 0;
  for (const Node* below = node.backing(); below != nullptr; below = below->backing()) ++depth;
  return depth;
}

qapi::ImageInfo describe_image_chain(const Node& node, bool flat) {
  qapi::ImageInfo info;
  static_cast<qapi::BlockNodeInfo&>(info) = describe_image(node);
  if (const Node* backing = node.backing(); backing != nullptr && !flat)
    info.backing_image = qapi::Box<qapi::ImageInfo>(describe_image_chain(*backing, flat));
  return info;
}

qapi::BlockdevChild describe_child(const Edge& edge) {
  qapi::BlockdevChild child;
  child.child = edge.name();
  child.node_name = edge.node().name();
  return child;
}

}  // namespace

qapi::BlockNodeInfo describe_image(const Node& node) {
  qapi::BlockNodeInfo info;
  info.filename = node.display_name();
  info.format = node.format_name();
  info.virtual_size = static_cast<int64_t>(node.length());
  if (auto allocated = node.driver().allocated_size())
    info.actual_size = static_cast<int64_t>(*allocated);
  if (node.driver().is_encrypted()) info.encrypted = true;
  if (auto facts = node.driver().image_facts()) {
    info.dirty_flag = facts->dirty;
    if (facts->cluster_size) info.cluster_size = static_cast<int64_t>(*facts->cluster_size);
  }
  if (auto specific = node.driver().specific_info()) info.format_specific = std::move(*specific);
  if (auto snapshots = node.driver().snapshots(); !snapshots.empty())
    info.snapshots = std::move(snapshots);
  if (auto name = node.driver().backing_name()) {
    info.backing_filename = name->name;
    if (!name->format.empty()) info.backing_filename_format = name->format;
    if (const Node* backing = node.backing()) info.full_backing_filename = backing->display_name();
  }
  return info;
}

qapi::BlockDeviceInfo describe_device(const Node& node, bool flat) {
  const NodeOptions& options = node.options();
  qapi::BlockDeviceInfo info;
  info.file = node.display_name();
  info.node_name = node.name();
  info.ro = node.is_read_only();
  info.drv = node.format_name();
  info.backing_file_depth = backing_depth(node);
  if (const Node* backing = node.backing()) info.backing_file = backing->display_name();
  for (const auto& edge : node.children()) {
    if (edge->node_ptr()) info.children.push_back(describe_child(*edge));
  }
  info.active = !node.io().inactive;
  info.encrypted = node.driver().is_encrypted();
  info.detect_zeroes = options.detect_zeroes;
  info.cache.writeback = true;  // a matter of the node's users, none of whom is asked here
  info.cache.direct = options.cache_direct;
  info.cache.no_flush = options.cache_no_flush;
  info.write_threshold = static_cast<int64_t>(node.io().write_threshold.load());
  info.image = describe_image_chain(node, flat);
  if (!node.bitmaps().empty()) info.dirty_bitmaps = describe_bitmaps(node);
  return info;
}

std::vector<qapi::BlockDeviceInfo> describe_named_nodes(const BlockLayer& layer, bool flat) {
  std::vector<qapi::BlockDeviceInfo> all;
  for (auto node = layer.nodes().rbegin(); node != layer.nodes().rend(); ++node) {
    if ((*node)->is_open()) all.push_back(describe_device(**node, flat));
  }
  return all;
}

namespace {

int64_t count(uint64_t value) noexcept {
  return static_cast<int64_t>(value);
}

qapi::BlockDeviceStats describe_counters(const Node& node) {
  const IoStats& stats = node.io().stats;
  IoTotals reads = stats.totals(IoKind::read);
  IoTotals writes = stats.totals(IoKind::write);
  IoTotals zeroes = stats.totals(IoKind::zeroes);  // writes, too, in QMP's terms
  IoTotals flushes = stats.totals(IoKind::flush);
  IoTotals discards = stats.totals(IoKind::discard);
  qapi::BlockDeviceStats result;
  result.rd_bytes = count(reads.bytes);
  result.rd_operations = count(reads.requests - reads.failed);
  result.rd_total_time_ns = count(reads.time_ns);
  result.failed_rd_operations = count(reads.failed);
  result.wr_bytes = count(writes.bytes + zeroes.bytes);
  result.wr_operations = count(writes.requests + zeroes.requests - writes.failed - zeroes.failed);
  result.wr_total_time_ns = count(writes.time_ns + zeroes.time_ns);
  result.failed_wr_operations = count(writes.failed + zeroes.failed);
  result.wr_highest_offset = count(node.io().highest_write.load());
  result.flush_operations = count(flushes.requests - flushes.failed);
  result.flush_total_time_ns = count(flushes.time_ns);
  result.failed_flush_operations = count(flushes.failed);
  result.unmap_bytes = count(discards.bytes);
  result.unmap_operations = count(discards.requests - discards.failed);
  result.unmap_total_time_ns = count(discards.time_ns);
  result.failed_unmap_operations = count(discards.failed);
  return result;
}

}  // namespace

qapi::BlockStats describe_stats(const Node& node, bool recurse) {
  qapi::BlockStats stats;
  stats.node_name = node.name();
  stats.stats = describe_counters(node);
  if (auto specific = node.driver().specific_stats()) stats.driver_specific = std::move(*specific);
  Edge* primary = node.child_in_role(ChildRole::primary);
  if (primary != nullptr && recurse)
    stats.parent = qapi::Box<qapi::BlockStats>(describe_stats(primary->node(), recurse));
  if (const Node* backing = node.backing(); backing != nullptr && recurse)
    stats.backing = qapi::Box<qapi::BlockStats>(describe_stats(*backing, recurse));
  return stats;
}

namespace {

// Builds the graph as clients know it: the latest entry first, ids by first mention.
class GraphDescription {
 public:
  uint64_t id_of(const void* object) {
    return ids_.try_emplace(object, ids_.size() + 1).first->second;
  }
  void add_node(const void* object, qapi::XDbgBlockGraphNodeType type, std::string name) {
    qapi::XDbgBlockGraphNode node;
    node.id = id_of(object);
    node.type = type;
    node.name = std::move(name);
    graph_.nodes.push_back(std::move(node));
  }
  void add_edge(const void* parent, const Edge& edge) {
    qapi::XDbgBlockGraphEdge result;
    result.parent = id_of(parent);
    result.child = id_of(&edge.node());
    result.name = edge.name();
    result.perm = names_of(edge.permissions().needed);
    result.shared_perm = names_of(edge.permissions().shared);
    graph_.edges.push_back(std::move(result));
  }
  qapi::XDbgBlockGraph finish() {
    std::reverse(graph_.nodes.begin(), graph_.nodes.end());
    std::reverse(graph_.edges.begin(), graph_.edges.end());
    return std::move(graph_);
  }

 private:
  static std::vector<qapi::BlockPermission> names_of(PermissionSet permissions) {
    constexpr std::array<std::pair<Permission, qapi::BlockPermission>, 4> kLastFirst{{
        {Permission::resize, qapi::BlockPermission::resize},
        {Permission::write_unchanged, qapi::BlockPermission::write_unchanged},
        {Permission::write, qapi::BlockPermission::write},
        {Permission::consistent_read, qapi::BlockPermission::consistent_read},
    }};
    std::vector<qapi::BlockPermission> names;
    for (auto [permission, name] : kLastFirst) {
      if (permissions.has(permission)) names.push_back(name);
    }
    return names;
  }

  qapi::XDbgBlockGraph graph_;
  std::unordered_map<const void*, uint64_t> ids_;
};

}  // namespace

qapi::XDbgBlockGraph describe_graph(const BlockLayer& layer) {
  GraphDescription graph;
  for (const Node* node : layer.nodes()) {
    for (Edge* edge : node->parents()) {
      if (edge->parent().parent_node() != nullptr) continue;
      graph.add_node(&edge->parent(), qapi::XDbgBlockGraphNodeType::block_backend,
                     edge->parent().parent_name());
      graph.add_edge(&edge->parent(), *edge);
    }
  }
  for (const Node* node : layer.nodes()) {
    graph.add_node(node, qapi::XDbgBlockGraphNodeType::block_driver, node->name());
    for (const auto& edge : node->children()) {
      if (edge->node_ptr()) graph.add_edge(node, *edge);
    }
  }
  return graph.finish();
}

}  // namespace strata
