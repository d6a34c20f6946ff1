// SPDX-License-Identifier: GPL-2.0-or-later
//
// A chain of images opened anew, so that another of them than the first can be written to.
#pragma once

#include <boost/json/object.hpp>
#include <string>
#include <vector>

#include "tools/common/image.h"

namespace strata::tools {

struct ChainLink {
  boost::json::object options;  // open the image again, but for what it is based on
  bool guessed_format = false;
  std::string file;  // its name
};

// From `top` down to `base`, which is part of its chain.
std::vector<ChainLink> describe_chain(const Node& top, const Node& base);

// Opens them one upon the other, from the last, the base, on. The first and the last can be written
// to. Returns the nodes in the order of `links`. Throws Error.
Task<std::vector<NodePtr>> open_chain(Tool& tool, std::vector<ChainLink> links);

// The image among those below `top` that `name` means: as one of them names its backing file, or by
// what its file is. Null if there is none.
Node* find_in_chain(const Node& top, const std::string& name);

}  // namespace strata::tools
