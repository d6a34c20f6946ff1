// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/objects/object.h"

#include "qapi/runtime/visitor.h"

namespace strata {

int64_t integer_of(const boost::json::value& value, std::string_view property) {
  return qapi::from_json<int64_t>(value, property);
}

std::string string_of(const boost::json::value& value, std::string_view property) {
  return qapi::from_json<std::string>(value, property);
}

}  // namespace strata
