// SPDX-License-Identifier: GPL-2.0-or-later
//
// From options to an open node.
#pragma once

#include <string>

#include "block/graph/layer.h"

namespace strata {

// What a driver's open() works with. It lives until open() has ended.
struct OpenContext {
  MainLoop& loop;
  BlockLayer& layer;
  Node& node;
  const qapi::BlockdevOptions& options;
  // The image is about to be checked, perhaps mended: what that finds does not keep it from being
  // opened, and nothing is mended on the way.
  bool to_check = false;

  // The branch of `options` that belongs to the driver.
  template <class Branch>
  const Branch& branch() const {
    return *options.get_if<Branch>();
  }

  // Opens what is defined inline, or takes the node that is referred to, as a child of this node.
  // An inline child inherits by its roles what it does not set itself. Throws Error.
  Task<Edge*> open_child(const qapi::BlockdevRef& reference, std::string name, ChildRoles roles,
                         bool guessed_format = false);
};

// What the options do not say about a node that is opened.
struct OpenHow {
  bool guessed_format = false;  // NodeOptions
  bool metadata_only = false;   // NodeOptions
  bool to_check = false;        // OpenContext
  // It will be the child `roles` of a node with these options: what it does not set it inherits.
  const NodeOptions* parent = nullptr;
  ChildRoles roles = kImageRoles;
};

// Opens a node and all that its options define inline. The result is held by the caller alone.
// Throws Error, with nothing left behind.
Task<NodePtr> open_node(MainLoop& loop, BlockLayer& layer, qapi::BlockdevOptions options,
                        OpenHow how = {});

// Throws Error for options that exclude each other.
void check_options(const NodeOptions& options);

// What the options say about a node, over what a child inherits from its parent.
NodeOptions effective_options(const qapi::BlockdevOptions& options);
NodeOptions effective_child_options(const qapi::BlockdevOptions& options, const NodeOptions& parent,
                                    ChildRoles roles);

}  // namespace strata
