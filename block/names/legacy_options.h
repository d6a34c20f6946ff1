// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <boost/json/object.hpp>

namespace strata {

// Options as older command lines spell them, at any level: "host", "port" and "path" of an nbd node
// become its "server", "on" and "off" of "discard" the schema's words, an empty "backing" none.
// Throws Error for what means nothing.
void modernise_options(boost::json::object& options);

}  // namespace strata
