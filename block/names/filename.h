// SPDX-License-Identifier: GPL-2.0-or-later
//
// File names as people and images write them, turned into options.
#pragma once

#include <boost/json/object.hpp>
#include <string>
#include <string_view>

namespace strata {

// Whether a colon comes before the first slash: "nbd:...", "file:...".
bool has_protocol_prefix(std::string_view name) noexcept;

// The options of the protocol node that `name` stands for, in the form that from_keyval() reads
// (all scalars are strings): {"driver": "file", "filename": name} for a plain path, or what a
// prefix ("file:", "host_device:", "nbd:", "nbd://", "nbd+unix://", "null-co://", ...) makes of the
// rest. A path to a device is one for host_device. "json:" is not dealt with here. Throws Error.
boost::json::object options_of_filename(const std::string& name);

// The same of a name that is a path, whatever it looks like.
boost::json::object options_of_path(const std::string& path);

// Where `name`, which the image `of` gives of another one, leads: a plain relative name starts from
// the directory of that image. Throws Error where that has no name to start from (an empty name, or
// "json:").
std::string absolute_name(const std::string& name, const std::string& of);

}  // namespace strata
