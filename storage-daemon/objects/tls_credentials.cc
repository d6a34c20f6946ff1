// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/objects/tls_credentials.h"

#include <array>

#include "block/base/error.h"
#include "qapi/runtime/visitor.h"
#include "qapi/visit_crypto.h"

namespace strata {
namespace {

using boost::json::value;
using qapi::QCryptoTLSCredsEndpoint;

template <class Options>
Options& options_of(UserObject& object) {
  return static_cast<TlsCredentialsOf<Options>&>(object).options();
}
template <class Options>
const Options& options_of(const UserObject& object) {
  return static_cast<const TlsCredentialsOf<Options>&>(object).options();
}

bool boolean_of(const value& from, std::string_view property) {
  if (from.is_bool()) return from.get_bool();
  throw Error("Invalid parameter type for '{}', expected: boolean", property);
}

template <class Options>
constexpr std::array kCommon{
    Property{"verify-peer", "bool",
             [](const UserObject& o) -> value {
               return options_of<Options>(o).verify_peer.value_or(true);
             },
             [](UserObject& o, const value& v) {
               options_of<Options>(o).verify_peer = boolean_of(v, "verify-peer");
             }},
    Property{
        "dir", "string",
        [](const UserObject& o) { return value(options_of<Options>(o).dir.value_or("")); },
        [](UserObject& o, const value& v) { options_of<Options>(o).dir = string_of(v, "dir"); }},
    Property{"endpoint", "QCryptoTLSCredsEndpoint",
             [](const UserObject& o) {
               return value(to_string(
                   options_of<Options>(o).endpoint.value_or(QCryptoTLSCredsEndpoint::client)));
             },
             [](UserObject& o, const value& v) {
               options_of<Options>(o).endpoint =
                   qapi::from_json<QCryptoTLSCredsEndpoint>(v, "endpoint");
             }},
    Property{
        "priority", "string",
        [](const UserObject& o) { return value(options_of<Options>(o).priority.value_or("")); },
        [](UserObject& o, const value& v) {
          options_of<Options>(o).priority = string_of(v, "priority");
        }},
};

constexpr Property kUsername{
    "username", "string",
    [](const UserObject& o) {
      return value(options_of<qapi::TlsCredsPskProperties>(o).username.value_or(""));
    },
    [](UserObject& o, const value& v) {
      options_of<qapi::TlsCredsPskProperties>(o).username = string_of(v, "username");
    }};

constexpr Property kSanityCheck{
    "sanity-check", "bool",
    [](const UserObject& o) -> value {
      return options_of<qapi::TlsCredsX509Properties>(o).sanity_check.value_or(true);
    },
    [](UserObject& o, const value& v) {
      options_of<qapi::TlsCredsX509Properties>(o).sanity_check = boolean_of(v, "sanity-check");
    }};

constexpr Property kPasswordId{
    "passwordid", "string",
    [](const UserObject& o) {
      return value(options_of<qapi::TlsCredsX509Properties>(o).passwordid.value_or(""));
    },
    [](UserObject& o, const value& v) {
      options_of<qapi::TlsCredsX509Properties>(o).passwordid = string_of(v, "passwordid");
    }};

template <class Options, class... More>
constexpr auto with_common(More... more) {
  const auto& common = kCommon<Options>;
  return std::array{common[0], common[1], common[2], common[3], more...};
}

}  // namespace

template <>
std::span<const Property> TlsAnonObject::property_table() noexcept {
  return kCommon<qapi::TlsCredsAnonProperties>;
}

template <>
std::span<const Property> TlsPskObject::property_table() noexcept {
  static constexpr auto kTable = with_common<qapi::TlsCredsPskProperties>(kUsername);
  return kTable;
}

template <>
std::span<const Property> TlsX509Object::property_table() noexcept {
  static constexpr auto kTable =
      with_common<qapi::TlsCredsX509Properties>(kSanityCheck, kPasswordId);
  return kTable;
}

}  // namespace strata
