// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/graph/reopen.h"

#include <algorithm>
#include <array>

#include "block/base/error.h"
#include "block/base/log.h"
#include "block/graph/drain.h"
#include "block/graph/open.h"
#include "block/graph/plan.h"
#include "qapi/visit_blockdev.h"

namespace strata {
namespace {

using boost::json::object;
using boost::json::value;

// Of every node.
constexpr std::array<std::string_view, 5> kChangeable{"auto-read-only", "cache", "detect-zeroes",
                                                      "discard", "read-only"};

bool defines(const Node& parent, const Node& child) noexcept {
  return child.definer().get() == &parent;
}

// Whether what is defined by `child`'s options was so by way of `parent`'s.
bool defines_by_way(const Node& parent, const Node& child) noexcept {
  for (std::shared_ptr<Node> at = child.definer(); at; at = at->definer())
    if (at.get() == &parent) return true;
  return false;
}

bool is_below(const Node& node, const Node& top) noexcept {
  if (&node == &top) return true;
  return std::ranges::any_of(top.children(), [&](const auto& edge) {
    return edge->node_ptr() && is_below(node, edge->node());
  });
}

object own_options(const Node& node) {
  if (node.explicit_options()) return qapi::to_json(*node.explicit_options()).as_object();
  return {{"driver", node.format_name()}};
}

std::string_view text_of(const value* option) noexcept {
  if (option == nullptr || !option->is_string()) return {};
  return {option->get_string().data(), option->get_string().size()};
}

// "server.path": where two values differ. `now` is no value that `before` could be.
std::string path_of_change(std::string path, const value& before, const value& now) {
  const object* old_tree = before.if_object();
  const object* new_tree = now.if_object();
  if (new_tree == nullptr) return path;
  for (const auto& [key, member] : *new_tree) {
    const value* old = old_tree != nullptr ? old_tree->if_contains(key) : nullptr;
    std::string name = path + "." + std::string(key);
    if (old == nullptr) return path_of_change(std::move(name), {}, member);
    if (*old != member) return path_of_change(std::move(name), *old, member);
  }
  return path;
}

void refresh_limits_upwards(Node& node) {
  node.refresh_limits();
  for (Edge* edge : node.parents())
    if (Node* parent = edge->parent().parent_node()) refresh_limits_upwards(*parent);
}

}  // namespace

// One change of options. A member of graph's inner circle, as NodeOpener is.
class Reopening {
 public:
  Reopening(MainLoop& loop, BlockLayer& layer) noexcept : loop_(loop), layer_(layer) {}

  void add_root(NewOptions wanted) {
    NodeOptions in_force = effective_options(wanted.options);
    add(std::move(wanted.node), std::move(wanted.options), std::move(in_force), true);
  }

  Task<void> run() {
    std::vector<Node*> nodes;
    for (const Entry& entry : entries_) nodes.push_back(entry.node.get());
    DrainedSection drained = co_await DrainedSection::begin(loop_, std::move(nodes));
    std::optional<Error> failed = co_await prepare();
    if (!failed) failed = change_graph();
    if (failed) {
      for (size_t i = prepared_; i-- > 0;) co_await entries_[i].node->driver().abort_reopen(loop_);
      throw *std::move(failed);
    }
    co_await finish();
    drained.end();
    for (NodePtr& node : std::exchange(detached_, {}))
      co_await layer_.release(loop_, std::move(node));
  }

 private:
  struct Entry {
    NodePtr node;
    std::shared_ptr<const qapi::BlockdevOptions> options;
    NodeOptions in_force;
    object before;
    object now;
    bool is_root = false;
  };

  void add(NodePtr node, qapi::BlockdevOptions options, NodeOptions in_force, bool is_root) {
    const NodeOptions& old = node->options();
    in_force.guessed_format = old.guessed_format;
    in_force.metadata_only = old.metadata_only;
    in_force.overlays = old.overlays;
    if (in_force.force_share) in_force.read_only = true;
    Entry entry{.node = node,
                .in_force = std::move(in_force),
                .before = own_options(*node),
                .now = qapi::to_json(options).as_object(),
                .is_root = is_root};
    entry.options = std::make_shared<const qapi::BlockdevOptions>(std::move(options));
    std::erase_if(entries_, [&](const Entry& other) { return other.node == node; });
    entries_.push_back(entry);
    for (const auto& edge : node->children())
      if (edge->node_ptr() && defines(*node, edge->node())) add_child(entry, *edge);
  }

  // A child that is not spoken of, or only named, keeps its options, but what it inherits.
  void add_child(const Entry& parent, const Edge& edge) {
    const value* given = parent.now.if_contains(edge.name());
    const Node& child = edge.node();
    if (given != nullptr && given->is_null()) return;
    if (given != nullptr && given->is_string() && text_of(given) != child.name()) return;
    bool is_inline = given != nullptr && given->is_object();
    value wanted = is_inline ? *given : value(own_options(child));
    auto options = qapi::from_json<qapi::BlockdevOptions>(wanted);
    NodeOptions in_force = effective_child_options(options, parent.in_force, edge.roles());
    add(edge.node_ptr(), std::move(options), std::move(in_force), false);
  }

  Task<std::optional<Error>> prepare() {
    std::optional<Error> failed;
    try {
      for (Entry& entry : entries_) {
        if (entry.is_root) co_await flush(*entry.node);
        check(entry);
        ReopenContext context{loop_, layer_, *entry.node, *entry.options, entry.in_force};
        co_await entry.node->driver().prepare_reopen(context);
        ++prepared_;
      }
    } catch (Error& error) {
      failed = std::move(error);
    }
    co_return failed;
  }

  static Task<void> flush(Node& node) {
    if (!node.is_writable()) co_return;
    Status status = co_await flush_tree(node);
    if (!status.ok()) throw Error::from_errno(status.error_number(), "Error flushing drive");
  }

  static bool names_child(const Node& node, std::string_view option) noexcept {
    return node.child(option) != nullptr || option == "backing";
  }

  void check(const Entry& entry) const {
    const Node& node = *entry.node;
    const DriverDescriptor& driver = node.descriptor();
    check_options(entry.in_force);
    if (entry.options->driver != driver.name) throw Error("Cannot change the option 'driver'");
    if (!driver.reopens)
      throw Error("Block format '{}' used by node '{}' does not support reopening files",
                  driver.format_name(), node.name());
    for (const auto& [key, old] : entry.before) {
      std::string_view name(key.data(), key.size());
      if (entry.now.contains(key) || is_changeable(driver, name) || name == "node-name" ||
          names_child(node, name))
        continue;
      throw Error("Option '{}' cannot be reset to its default value", name);
    }
  }

  // All of it without a wait, so that nobody sees the graph half changed.
  std::optional<Error> change_graph() {
    try {
      GraphPlan plan(loop_);
      for (Entry& entry : entries_) {
        if (entry.node->descriptor().supports_backing) change_backing(plan, entry);
        change_file(plan, entry);
        check_unchanged(entry);
        plan.set_options(*entry.node, entry.in_force);
      }
      plan.prepare();
      plan.commit();
      commit();
    } catch (Error& error) {
      detached_.clear();
      return std::move(error);
    }
    return std::nullopt;
  }

  NodePtr find_child(const value& name) const {
    NodePtr child = layer_.find_node(text_of(&name));
    if (!child || !child->is_open())
      throw Error("Cannot find device='' nor node-name='{}'", text_of(&name));
    return child;
  }

  void change_backing(GraphPlan& plan, const Entry& entry) {
    Node& node = *entry.node;
    Edge* edge = node.child_in_role(ChildRole::cow);
    const value* wanted = entry.now.if_contains("backing");
    if (wanted == nullptr) {
      if (edge != nullptr || node.driver().backing_name())
        throw Error("backing is missing for '{}'", node.name());
      return;
    }
    if (wanted->is_object()) return;  // its own business, or an error that check_unchanged() finds
    NodePtr child = wanted->is_null() ? nullptr : find_child(*wanted);
    if (edge != nullptr) return move_edge(plan, *edge, std::move(child));
    if (!child) return;
    check_acyclic(node, *child, "backing");
    take_over(node, *child);
    plan.add_child(node, "backing", ChildRole::cow, std::move(child));
  }

  void change_file(GraphPlan& plan, const Entry& entry) {
    Edge* edge = entry.node->child("file");
    const value* wanted = entry.now.if_contains("file");
    if (edge == nullptr || wanted == nullptr || !wanted->is_string()) return;
    move_edge(plan, *edge, find_child(*wanted));
  }

  void move_edge(GraphPlan& plan, Edge& edge, NodePtr child) {
    if (edge.node_ptr() == child) return;
    Node& parent = *edge.parent().parent_node();
    if (edge.is_frozen())
      throw Error("Cannot change frozen '{}' link from '{}' to '{}'", edge.name(), parent.name(),
                  edge.node().name());
    if (child) check_acyclic(parent, *child, edge.name());
    detached_.push_back(edge.node_ptr());
    if (!child) return plan.remove_child(edge);
    take_over(parent, *child);
    plan.set_child(edge, std::move(child));
  }

  static void check_acyclic(const Node& parent, const Node& child, std::string_view name) {
    if (is_below(parent, child))
      throw Error("Making '{}' a {} child of '{}' would create a cycle", child.name(), name,
                  parent.name());
  }

  // What the options defined further down, they define still when it comes nearer.
  void take_over(Node& parent, Node& child) {
    if (defines_by_way(parent, child)) taken_over_.emplace_back(&parent, &child);
  }

  void check_unchanged(const Entry& entry) const {
    const Node& node = *entry.node;
    for (const auto& [key, wanted] : entry.now) {
      std::string_view name(key.data(), key.size());
      if (is_changeable(node.descriptor(), name)) continue;
      if (name == "node-name" && text_of(&wanted) == node.name()) continue;
      const value* before = entry.before.if_contains(key);
      if (const Edge* edge = node.child(name)) {
        if (wanted.is_object() && defines(node, edge->node())) continue;
        if (text_of(&wanted) == edge->node().name()) continue;
        before = nullptr;
      } else if (name == "backing" && !wanted.is_object()) {
        continue;
      }
      if (before != nullptr && *before == wanted) continue;
      throw Error("Cannot change the option '{}'",
                  path_of_change(std::string(name), before ? *before : value(), wanted));
    }
  }

  void commit() noexcept {
    for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
      Node& node = *entry->node;
      node.driver().commit_reopen();
      node.explicit_options_ = entry->options;
      for (NodePtr& gone : detached_)
        if (defines(node, *gone)) gone->set_definer({});
    }
    for (auto [parent, child] : taken_over_) child->set_definer(parent->weak_from_this());
    for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry)
      refresh_limits_upwards(*entry->node);
  }

  Task<void> finish() {
    for (size_t i = entries_.size(); i-- > 0;) {
      Node& node = *entries_[i].node;
      std::optional<Error> failed;
      try {
        co_await node.refresh_length();
        co_await node.driver().after_reopen(loop_);
      } catch (Error& error) {
        failed = std::move(error);
      }
      if (failed) log_error("{}: {}", node.name(), failed->text());
    }
  }

  MainLoop& loop_;
  BlockLayer& layer_;
  std::vector<Entry> entries_;  // parents before their children
  size_t prepared_ = 0;
  std::vector<NodePtr> detached_;
  std::vector<std::pair<Node*, Node*>> taken_over_;
};

Task<void> reopen_nodes(MainLoop& loop, BlockLayer& layer, std::vector<NewOptions> nodes) {
  Reopening reopening(loop, layer);
  for (NewOptions& wanted : nodes) reopening.add_root(std::move(wanted));
  co_await reopening.run();
}

object current_options(const Node& node) {
  object options = own_options(node);
  for (const auto& edge : node.children()) {
    if (!edge->node_ptr()) continue;
    const Node& child = edge->node();
    options[edge->name()] =
        defines(node, child) ? value(current_options(child)) : value(child.name());
  }
  if (options.contains("backing") && node.child("backing") == nullptr) options["backing"] = nullptr;
  return options;
}

bool is_changeable(const DriverDescriptor& driver, std::string_view option) noexcept {
  return std::ranges::find(kChangeable, option) != kChangeable.end() ||
         std::ranges::find(driver.changeable, option) != driver.changeable.end();
}

}  // namespace strata
