// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/common/image_info.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <vector>

#include "block/base/error.h"
#include "block/graph/node.h"
#include "block/graph/query.h"
#include "block/names/backing.h"
#include "block/names/filename.h"
#include "qapi/runtime/json_writer.h"
#include "qapi/visit_block_info.h"
#include "tools/common/numbers.h"
#include "tools/common/snapshot_list.h"

namespace strata::tools {
namespace {

using boost::json::value;

std::string indent(int level) {
  return std::string(static_cast<size_t>(level) * 4, ' ');
}

std::string scalar_text(const value& scalar) {
  if (scalar.is_string()) return std::string(scalar.get_string());
  if (const bool* flag = scalar.if_bool()) return *flag ? "true" : "false";
  return qapi::write_json(scalar);
}

void add_value(std::string& out, int level, const value& what);

void add_member(std::string& out, int level, std::string_view label, const value& what) {
  bool is_composite = what.is_object() || what.is_array();
  out += fmt::format("{}{}:{}", indent(level), label, is_composite ? "\n" : " ");
  if (is_composite)
    add_value(out, level + 1, what);
  else
    out += scalar_text(what) + "\n";
}

// Members in the order of QEMU's dictionaries, with spaces in their names.
void add_value(std::string& out, int level, const value& what) {
  if (const boost::json::array* elements = what.if_array()) {
    for (size_t i = 0; i < elements->size(); ++i)
      add_member(out, level, fmt::format("[{}]", i), (*elements)[i]);
    return;
  }
  std::vector<const boost::json::key_value_pair*> members;
  for (const auto& member : what.get_object()) members.push_back(&member);
  std::sort(members.begin(), members.end(), [](const auto* a, const auto* b) {
    return qapi::dictionary_bucket(a->key()) < qapi::dictionary_bucket(b->key());
  });
  for (const auto* member : members) {
    std::string label(member->key());
    std::replace(label.begin(), label.end(), '-', ' ');
    add_member(out, level, label, member->value());
  }
}

void add_line(std::string& out, int level, std::string_view name, std::string_view text) {
  out += fmt::format("{}{}: {}\n", indent(level), name, text);
}

void add_backing(std::string& out, const qapi::BlockGraphInfo& info, int level) {
  if (info.backing_filename) {
    std::string text = *info.backing_filename;
    if (!info.full_backing_filename)
      text += " (cannot determine actual path)";
    else if (*info.full_backing_filename != *info.backing_filename)
      text += " (actual path: " + *info.full_backing_filename + ")";
    add_line(out, level, "backing file", text);
  }
  if (info.backing_filename_format)
    add_line(out, level, "backing file format", *info.backing_filename_format);
}

void add_node(std::string& out, const qapi::BlockGraphInfo& info, const std::string& path,
              int level) {
  bool is_protocol = !path.empty() && info.children.empty();
  auto size = static_cast<uint64_t>(info.virtual_size);
  add_line(out, level, path.empty() ? "image" : "filename", info.filename);
  add_line(out, level, is_protocol ? "protocol type" : "file format", info.format);
  add_line(out, level, is_protocol ? "file length" : "virtual size",
           fmt::format("{} ({} bytes)", human_size(size), size));
  add_line(out, level, "disk size",
           info.actual_size ? human_size(static_cast<uint64_t>(*info.actual_size)) : "unavailable");
  if (info.encrypted.value_or(false)) add_line(out, level, "encrypted", "yes");
  if (info.cluster_size) add_line(out, level, "cluster_size", std::to_string(*info.cluster_size));
  if (info.dirty_flag.value_or(false)) add_line(out, level, "cleanly shut down", "no");
  add_backing(out, info, level);
  if (info.snapshots) out += snapshot_list_text(*info.snapshots);
  if (info.format_specific) out += specific_info_text(*info.format_specific, level);
  if (info.limits) {
    out += indent(level) + "Block limits:\n";
    add_value(out, level + 1, qapi::to_json(*info.limits));
  }
  for (const qapi::BlockChildInfo& child : info.children) {
    std::string child_path = path + "/" + child.name;
    out += fmt::format("{}Child node '{}':\n", indent(level), child_path);
    add_node(out, child.info, child_path, level + 1);
  }
}

qapi::BlockLimitsInfo describe_limits(const Limits& limits) {
  auto if_set = [](auto value) {
    return value != 0 ? std::optional<decltype(value)>(value) : std::nullopt;
  };
  qapi::BlockLimitsInfo info;
  info.request_alignment = limits.request_alignment;
  info.max_discard = if_set(limits.max_pdiscard);
  info.discard_alignment = if_set(limits.pdiscard_alignment);
  info.max_write_zeroes = if_set(limits.max_pwrite_zeroes);
  info.write_zeroes_alignment = if_set(limits.pwrite_zeroes_alignment);
  info.opt_transfer = if_set(static_cast<uint32_t>(limits.optimal_transfer));
  info.max_transfer = if_set(static_cast<uint32_t>(limits.max_transfer));
  info.max_iov = limits.max_iov;
  info.min_mem_alignment = limits.min_memory_alignment;
  info.opt_mem_alignment = limits.optimal_memory_alignment;
  return info;
}

}  // namespace

std::string specific_info_text(const qapi::ImageInfoSpecific& info, int level) {
  value all = qapi::to_json(info);
  const value* data = all.get_object().if_contains("data");
  if (data == nullptr || !data->is_object() || data->get_object().empty()) return {};
  std::string out = indent(level) + "Format specific information:\n";
  add_value(out, level + 1, *data);
  return out;
}

qapi::BlockGraphInfo describe_node_tree(const Node& node, bool with_limits) {
  qapi::BlockGraphInfo info;
  static_cast<qapi::BlockNodeInfo&>(info) = describe_image(node);
  if (info.backing_filename && !info.full_backing_filename) {
    try {
      info.full_backing_filename = absolute_name(*info.backing_filename, start_of_names(node));
    } catch (const Error&) {
      // Nothing tells where a relative name starts.
    }
  }
  if (with_limits) info.limits = describe_limits(node.io().limits);
  for (const auto& edge : node.children()) {
    if (!edge->node_ptr() || edge->has_role(ChildRole::cow)) continue;
    qapi::BlockChildInfo child;
    child.name = edge->name();
    child.info = describe_node_tree(edge->node(), with_limits);
    info.children.push_back(std::move(child));
  }
  return info;
}

std::string image_info_text(const qapi::BlockGraphInfo& info) {
  std::string out;
  add_node(out, info, "", 0);
  return out;
}

}  // namespace strata::tools
