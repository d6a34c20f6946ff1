// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/objects/authorization.h"

#include <array>

#include "qapi/runtime/visitor.h"
#include "qapi/visit_authz.h"

namespace strata {
namespace {

using boost::json::value;

template <class Object>
const auto& options_of(const UserObject& object) {
  return static_cast<const Object&>(object).options();
}

constexpr std::array kList{
    Property{"policy", "QAuthZListPolicy",
             [](const UserObject& o) {
               return value(to_string(
                   options_of<AuthzListObject>(o).policy.value_or(qapi::QAuthZListPolicy::deny)));
             }},
    Property{"rules", "QAuthZListRule",
             [](const UserObject& o) -> value {
               const auto& rules = options_of<AuthzListObject>(o).rules;
               return rules ? qapi::to_json(*rules) : value(boost::json::array());
             }},
};
constexpr std::array kListFile{
    Property{
        "filename", "string",
        [](const UserObject& o) { return value(options_of<AuthzListFileObject>(o).filename); }},
    Property{"refresh", "bool",
             [](const UserObject& o) -> value {
               return options_of<AuthzListFileObject>(o).refresh.value_or(true);
             }},
};
constexpr std::array kPam{
    Property{"service", "string",
             [](const UserObject& o) { return value(options_of<AuthzPamObject>(o).service); }},
};
constexpr std::array kSimple{
    Property{"identity", "string",
             [](const UserObject& o) { return value(options_of<AuthzSimpleObject>(o).identity); }},
};

}  // namespace

template <>
std::span<const Property> AuthzListObject::property_table() noexcept {
  return kList;
}
template <>
std::span<const Property> AuthzListFileObject::property_table() noexcept {
  return kListFile;
}
template <>
std::span<const Property> AuthzPamObject::property_table() noexcept {
  return kPam;
}
template <>
std::span<const Property> AuthzSimpleObject::property_table() noexcept {
  return kSimple;
}

}  // namespace strata
