// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <optional>
#include <string>

#include "block/base/error.h"

namespace strata {

// A command as a client sent it, checked for form.
struct QmpRequest {
  std::string command;
  bool out_of_band = false;
  boost::json::object arguments;
};

// The member "id" of a request, if it is there and the request an object.
std::optional<boost::json::value> id_of(const boost::json::value& input);

// `oob_enabled`: the client has negotiated exec-oob. Throws Error with QEMU's texts.
QmpRequest parse_request(const boost::json::value& input, bool oob_enabled);

boost::json::object make_error_reply(const Error& error,
                                     const std::optional<boost::json::value>& id);
boost::json::object make_reply(boost::json::value result,
                               const std::optional<boost::json::value>& id);

}  // namespace strata
