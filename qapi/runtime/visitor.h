// SPDX-License-Identifier: GPL-2.0-or-later
//
// From JSON to schema types and back. Include visit_<module>.h for the types; this is the
// interface.
//
//   auto options = from_json<BlockdevOptions>(value);   // throws strata::Error
//   boost::json::value value = to_json(options);
//
// Reading is strict: a missing, unknown or ill-typed member is an error whose text names it by its
// path
// ("file.driver", "children[2]"). Writing leaves out absent optional members and keeps the schema's
// order, members of a base first.
#pragma once

#include <boost/json/value.hpp>
#include <string_view>

#include "qapi/runtime/builtin.h"
#include "qapi/runtime/type_info.h"

namespace strata::qapi {

enum class InputForm {
  json,    // as QMP has it
  keyval,  // as parse_keyval() makes it: all scalars are strings
};

// `name` stands for the value itself in error texts where no member can be named.
void read_value(const TypeInfo& type, void* out, const boost::json::value& value, InputForm form,
                std::string_view name);
boost::json::value write_value(const TypeInfo& type, const void* value);

template <class T>
T from_json(const boost::json::value& value, std::string_view name = "") {
  T result{};
  read_value(type_info<T>(), &result, value, InputForm::json, name);
  return result;
}

template <class T>
T from_keyval(const boost::json::value& value, std::string_view name = "") {
  T result{};
  read_value(type_info<T>(), &result, value, InputForm::keyval, name);
  return result;
}

template <class T>
boost::json::value to_json(const T& value) {
  return write_value(type_info<T>(), &value);
}

}  // namespace strata::qapi
