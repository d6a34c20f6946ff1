// SPDX-License-Identifier: GPL-2.0-or-later
//
// Options as KEY=VALUE,... with dotted keys, as the command line has them:
//
//   driver=qcow2,file.driver=file,file.filename=a,,b.img
//   children.0=x,children.1=y
//
// A comma in a value is doubled. Keys whose fragments are all numbers make arrays. All scalars stay
// strings; from_keyval<T>() turns them into what the schema says.
#pragma once

#include <boost/json/object.hpp>
#include <string_view>

namespace strata::qapi {

struct KeyvalResult {
  boost::json::object value;
  bool help = false;  // 'help' or '?' stood among the parameters
};

// `implied_key` is the key of a first parameter that has none ("" = there is no such). Throws
// Error.
KeyvalResult parse_keyval(std::string_view text, std::string_view implied_key = "");

// What an option's argument holds: JSON if it starts with '{', else keyval.
struct OptionValue {
  boost::json::value value;
  bool is_json = false;
  bool help = false;
};
OptionValue parse_option(std::string_view text, std::string_view implied_key = "");

}  // namespace strata::qapi
