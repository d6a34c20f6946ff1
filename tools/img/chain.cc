// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/chain.h"

#include <filesystem>

#include "block/base/error.h"
#include "block/graph/open.h"
#include "block/names/backing.h"
#include "block/names/filename.h"
#include "qapi/visit_blockdev.h"

namespace strata::tools {
namespace {

using boost::json::object;

// The options by themselves: a child that they refer to by its name is put in its place.
object options_of(const Node& node) {
  object options = qapi::to_json(*node.explicit_options()).get_object();
  for (const char* key : {"read-only", "auto-read-only", "node-name"}) options.erase(key);
  for (const auto& edge : node.children()) {
    if (!edge->node_ptr() || edge->has_role(ChildRole::cow)) continue;
    if (options.contains(edge->name()) || edge->name() == "file")
      options[edge->name()] = options_of(edge->node());
  }
  return options;
}

std::string real_path(const std::string& name) {
  std::error_code ignored;
  std::filesystem::path path = std::filesystem::canonical(name, ignored);
  return ignored ? name : path.string();
}

bool is_called(const Node& overlay, const Node& image, const std::string& name) {
  if (has_protocol_prefix(name) && image.display_name() == name) return true;
  if (auto recorded = overlay.driver().backing_name(); recorded && recorded->name == name)
    return true;
  std::string file = image.file_name().exact;
  if (file.empty()) return false;
  try {
    std::string full = absolute_name(name, start_of_names(overlay));
    return real_path(full) == real_path(file);
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

std::vector<ChainLink> describe_chain(const Node& top, const Node& base) {
  std::vector<ChainLink> links;
  for (const Node* node = &top; node != nullptr; node = node->backing()) {
    ChainLink link{options_of(*node), node->options().guessed_format, node->display_name()};
    links.push_back(std::move(link));
    if (node == &base) break;
  }
  return links;
}

Task<std::vector<NodePtr>> open_chain(Tool& tool, std::vector<ChainLink> links) {
  std::vector<NodePtr> nodes(links.size());
  for (size_t i = links.size(); i-- > 0;) {
    object options = std::move(links[i].options);
    options["read-only"] = i != 0 && i + 1 != links.size();
    if (i + 1 != links.size()) options["backing"] = nodes[i + 1]->name();
    auto typed = qapi::from_json<qapi::BlockdevOptions>(options);
    nodes[i] = co_await open_node(tool.loop(), tool.layer(), std::move(typed),
                                  {.guessed_format = links[i].guessed_format});
  }
  co_return nodes;
}

Node* find_in_chain(const Node& top, const std::string& name) {
  for (const Node* overlay = &top; overlay->backing() != nullptr; overlay = overlay->backing())
    if (is_called(*overlay, *overlay->backing(), name)) return overlay->backing();
  return nullptr;
}

}  // namespace strata::tools
