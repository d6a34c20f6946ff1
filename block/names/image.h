// SPDX-License-Identifier: GPL-2.0-or-later
//
// From what is said about an image to options, and to its format where that is not said.
#pragma once

#include <boost/json/object.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "block/graph/layer.h"

namespace strata {

// A file name (also "json:..."), or options alone, or both.
struct ImageName {
  std::optional<std::string> filename;
  std::optional<std::string> format;
  // In the form that from_keyval() reads. Dotted keys have been taken apart.
  boost::json::object options;
};

// All of it as one tree of options. Without a "driver" the format is yet to be guessed from the
// member "file", which is there then. Throws Error.
boost::json::object resolve_image_name(const BlockLayer& layer, const ImageName& name);

// Null if no such driver is built.
const DriverDescriptor* find_driver(const BlockLayer& layer, std::string_view name) noexcept;

// The format that the file has by its first bytes (dmg: by its name and last bytes). Throws Error
// where that one is not built.
Task<std::string_view> guess_format(MainLoop& loop, BlockLayer& layer, NodePtr file);

// Whether they have "encrypt.key-secret" of a qcow2 image, but do not name the encryption that it
// is for, or one that there is not.
bool lacks_encryption_format(const boost::json::object& options);

// Adds the one that the image in the file has; if it has none, its options are dropped. Throws
// Error where they name another.
Task<void> name_encryption(MainLoop& loop, BlockLayer& layer, NodePtr file,
                           boost::json::object& options);

}  // namespace strata
