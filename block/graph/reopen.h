// SPDX-License-Identifier: GPL-2.0-or-later
//
// Other options for open nodes, without anybody above noticing more than a pause.
#pragma once

#include <boost/json/object.hpp>
#include <vector>

#include "block/graph/layer.h"

namespace strata {

// What a driver's prepare_reopen() works with; gone once that has ended.
struct ReopenContext {
  MainLoop& loop;
  BlockLayer& layer;
  Node& node;
  const qapi::BlockdevOptions& options;  // all of the driver's
  NodeOptions& in_force;                 // what will be; node.options() is what still is

  template <class Branch>
  const Branch& branch() const {
    return *options.get_if<Branch>();
  }
};

struct NewOptions {
  NodePtr node;
  qapi::BlockdevOptions options;
};

// Gives all of the nodes their new options, or, with an Error, none. What is not said falls back to
// its default. A child that the node's options define inline gets its part of them; another is
// named by them, and "file" and "backing" may name one that takes its place ("backing" also none:
// null). Who is called from inside a request waits for itself.
Task<void> reopen_nodes(MainLoop& loop, BlockLayer& layer, std::vector<NewOptions> nodes);

// What would open the node as it is: the user's options, with those of the children that they
// define.
boost::json::object current_options(const Node& node);

// Whether a node of that driver takes another value of the option while it is open, as far as that
// can be told without the value.
bool is_changeable(const DriverDescriptor& driver, std::string_view option) noexcept;

}  // namespace strata
