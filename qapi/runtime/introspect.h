// SPDX-License-Identifier: GPL-2.0-or-later
//
// The answer of query-qmp-schema, made from the tables: the given commands and events and the types
// they reach. Names of types are numbers, because they are no part of the interface.
#pragma once

#include <boost/json/array.hpp>
#include <functional>
#include <span>
#include <string_view>

#include "qapi/runtime/command.h"

namespace strata::qapi {

// Whether a value of an enum exists in this build. One that does not is shown neither in the enum
// nor as a case of a union.
using EnumFilter = std::function<bool(std::string_view enum_name, std::string_view value)>;

// Commands and events in the schema's order. A null `keep` keeps all.
boost::json::array introspect(std::span<const CommandDescription* const> commands,
                              std::span<const EventDescription* const> events,
                              const EnumFilter& keep = nullptr);

}  // namespace strata::qapi
