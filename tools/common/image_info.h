// SPDX-License-Identifier: GPL-2.0-or-later
//
// What is known of an image, for people and as JSON.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <string>

#include "qapi/types_block_info.h"

namespace strata {
class Node;
}

namespace strata::tools {

// "Format specific information:" and a line a member, `level` times four spaces in; empty where
// there is nothing to tell.
std::string specific_info_text(const qapi::ImageInfoSpecific& info, int level);

// The node and the nodes below it that are no backing files.
qapi::BlockGraphInfo describe_node_tree(const Node& node, bool with_limits = false);
std::string image_info_text(const qapi::BlockGraphInfo& info);

}  // namespace strata::tools
