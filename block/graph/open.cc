// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/graph/open.h"

#include "block/base/error.h"
#include "block/base/trace.h"
#include "block/graph/plan.h"

namespace strata {
namespace {

const TracePoint trace_bdrv_open_common("bdrv_open_common");

NodeOptions apply(const qapi::BlockdevOptions& options, NodeOptions in_force) {
  if (options.read_only) in_force.read_only = *options.read_only;
  if (options.auto_read_only) in_force.auto_read_only = *options.auto_read_only;
  if (options.force_share) in_force.force_share = *options.force_share;
  if (options.discard)
    in_force.discard_unmap = *options.discard == qapi::BlockdevDiscardOptions::unmap;
  if (options.cache && options.cache->direct) in_force.cache_direct = *options.cache->direct;
  if (options.cache && options.cache->no_flush) in_force.cache_no_flush = *options.cache->no_flush;
  in_force.detect_zeroes = options.detect_zeroes.value_or(qapi::BlockdevDetectZeroesOptions::off);
  return in_force;
}

}  // namespace

// Makes one node. A member of graph's inner circle, so that a half-made node is nobody else's
// business.
class NodeOpener {
 public:
  NodeOpener(MainLoop& loop, BlockLayer& layer) noexcept : loop_(loop), layer_(layer) {}

  Task<NodePtr> open(qapi::BlockdevOptions options, NodeOptions in_force, bool to_check) {
    const DriverDescriptor* descriptor = layer_.find_driver(options.driver);
    if (descriptor == nullptr) throw Error("Unknown driver '{}'", qapi::to_string(options.driver));
    std::string name;
    if (options.node_name) {
      layer_.check_node_name(*options.node_name);
      name = *options.node_name;
    } else {
      name = layer_.generate_node_name();
    }
    check_options(in_force);
    if (in_force.force_share) in_force.read_only = true;

    auto node = std::make_shared<Node>(layer_, std::move(name), in_force);
    auto explicit_options = std::make_shared<const qapi::BlockdevOptions>(std::move(options));
    node->explicit_options_ = explicit_options;
    if (explicit_options->active == false) node->io().inactive = true;
    node->adopt_driver(descriptor->create(*descriptor));
    OpenContext context{loop_, layer_, *node, *explicit_options, to_check};
    co_await node->driver().open(context);
    node->refresh_limits();
    co_await node->refresh_length();
    node->open_ = true;
    co_return node;
  }

 private:
  MainLoop& loop_;
  BlockLayer& layer_;
};

void check_options(const NodeOptions& options) {
  if (options.detect_zeroes == qapi::BlockdevDetectZeroesOptions::unmap && !options.discard_unmap)
    throw Error(
        "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap");
  if (options.force_share && !options.read_only && !options.auto_read_only)
    throw Error("force-share=on can only be used with read-only images");
}

NodeOptions effective_options(const qapi::BlockdevOptions& options) {
  return apply(options, {});
}

// A child is cached like its parent. What a backing file holds is only read. Formats decide
// themselves what to discard, so what lies below them always may.
NodeOptions effective_child_options(const qapi::BlockdevOptions& options, const NodeOptions& parent,
                                    ChildRoles roles) {
  NodeOptions inherited;
  inherited.cache_direct = parent.cache_direct;
  inherited.cache_no_flush = parent.cache_no_flush;
  inherited.force_share = parent.force_share;
  inherited.discard_unmap = true;
  inherited.metadata_only = parent.metadata_only;
  inherited.overlays = parent.overlays;
  if (roles.has(ChildRole::cow)) {
    inherited.read_only = true;
  } else {
    inherited.read_only = parent.read_only;
    inherited.auto_read_only = parent.auto_read_only;
  }
  return apply(options, inherited);
}

Task<NodePtr> open_node(MainLoop& loop, BlockLayer& layer, qapi::BlockdevOptions options,
                        OpenHow how) {
  NodeOptions in_force = how.parent != nullptr
                             ? effective_child_options(options, *how.parent, how.roles)
                             : effective_options(options);
  in_force.guessed_format = how.guessed_format;
  in_force.metadata_only = how.metadata_only;
  trace_bdrv_open_common("node {} driver {}", options.node_name.value_or(""),
                         to_string(options.driver));
  co_return co_await NodeOpener(loop, layer).open(std::move(options), in_force, how.to_check);
}

Task<Edge*> OpenContext::open_child(const qapi::BlockdevRef& reference, std::string name,
                                    ChildRoles roles, bool guessed_format) {
  NodePtr child;
  if (const auto* existing = std::get_if<std::string>(&reference)) {
    child = layer.lookup_node(*existing);
  } else {
    const qapi::BlockdevOptions& inline_options =
        *std::get<qapi::Box<qapi::BlockdevOptions>>(reference);
    NodeOptions in_force = effective_child_options(inline_options, node.options(), roles);
    in_force.guessed_format = guessed_format;
    child = co_await NodeOpener(loop, layer).open(inline_options, in_force, false);
    child->set_definer(node.weak_from_this());
  }
  GraphPlan plan(loop);
  Edge& edge = plan.add_child(node, std::move(name), roles, std::move(child));
  plan.prepare();
  plan.commit();
  co_return &edge;
}

}  // namespace strata
