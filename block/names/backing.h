// SPDX-License-Identifier: GPL-2.0-or-later
//
// Backing files as images name them.
//
// Who may write to an image may write any name into it. So a name found there leads to files and
// what reads them, and no further: neither to another host or device by way of a protocol, nor to
// nodes that exist already, and options that would let it be written to or that name it are not
// taken from it. Protocols that are wanted nevertheless are listed in the environment variable
// STRATA_BACKING_DRIVERS, by the names of their drivers.
#pragma once

#include <boost/json/object.hpp>
#include <optional>
#include <string>

#include "block/graph/open.h"

namespace strata {

// The longest chain that is followed: a longer one most likely leads back to itself.
inline constexpr unsigned kMaxBackingDepth = 1000;

struct RecordedName {
  std::string name;
  std::optional<std::string> format;  // to be guessed where it is not recorded
  std::string image;                  // whose directory a relative name starts from
};

// The name of the file in which an image begins, whatever lies between: relative names in the image
// start from its directory.
std::string start_of_names(const Node& image);

// Throws Error for options, made of a name that an image contains, that lead further than such
// names may; takes away what such names do not decide.
void confine_recorded_name(const std::string& name, boost::json::object& options);

// Opens it as the child "backing" of the node that is being opened. Throws Error.
Task<Edge*> open_recorded_backing(OpenContext& context, RecordedName backing);

}  // namespace strata
