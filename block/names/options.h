// SPDX-License-Identifier: GPL-2.0-or-later
//
// Options as a tree of strings, the form from_keyval() reads.
#pragma once

#include <boost/json/object.hpp>
#include <string_view>

#include "block/base/error.h"
#include "block/graph/layer.h"
#include "qapi/types_blockdev.h"

namespace strata {

// Puts `value` where the dotted `key` leads; numbers make arrays later (see below). Throws Error
// where a value and a tree are in the way of each other.
void set_option(boost::json::object& options, std::string_view key, std::string_view value);

// JSON in which all scalars have become strings and dotted keys trees.
boost::json::object option_tree_of_json(const boost::json::object& json);

// Adds what `options` does not have yet, at every level.
void merge_options(boost::json::object& options, const boost::json::object& defaults);

// The member `key`, made an object if it is none.
boost::json::object& child_of(boost::json::object& options, std::string_view key);

// {"filename": path} of a child without a driver becomes a file. No protocol is read out of it.
void name_drivers_of_children(boost::json::object& options);

// The typed form. Throws Error, in the words in which an image's options are complained about.
// Where the schema has an integer a size with a suffix will do.
qapi::BlockdevOptions read_options(const BlockLayer& layer, boost::json::object options);

}  // namespace strata
