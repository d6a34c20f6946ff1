// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/objects/secret.h"

#include <string.h>

#include <array>

#include "qapi/runtime/visitor.h"
#include "qapi/visit_crypto.h"

namespace strata {

using boost::json::value;
using qapi::QCryptoSecretFormat;

struct SecretAccess {
  static const qapi::SecretProperties& options(const UserObject& object) {
    return static_cast<const SecretObject&>(object).options_;
  }
  static qapi::SecretProperties& options(UserObject& object) {
    return static_cast<SecretObject&>(object).options_;
  }
};

namespace {

value get_keyid(const UserObject& object) {
  return value(SecretAccess::options(object).keyid.value_or(""));
}
value get_iv(const UserObject& object) {
  return value(SecretAccess::options(object).iv.value_or(""));
}
value get_data(const UserObject& object) {
  return value(SecretAccess::options(object).data.value_or(""));
}
value get_file(const UserObject& object) {
  return value(SecretAccess::options(object).file.value_or(""));
}
value get_format(const UserObject& object) {
  return value(to_string(SecretAccess::options(object).format.value_or(QCryptoSecretFormat::raw)));
}

constexpr std::array kProperties{
    Property{
        "iv", "string", get_iv,
        [](UserObject& o, const value& v) { SecretAccess::options(o).iv = string_of(v, "iv"); }},
    Property{"keyid", "string", get_keyid,
             [](UserObject& o, const value& v) {
               SecretAccess::options(o).keyid = string_of(v, "keyid");
             }},
    Property{"format", "QCryptoSecretFormat", get_format,
             [](UserObject& o, const value& v) {
               SecretAccess::options(o).format = qapi::from_json<QCryptoSecretFormat>(v, "format");
             }},
    Property{"file", "string", get_file,
             [](UserObject& o, const value& v) {
               SecretAccess::options(o).file = string_of(v, "file");
             }},
    Property{"data", "string", get_data,
             [](UserObject& o, const value& v) {
               SecretAccess::options(o).data = string_of(v, "data");
             }},
};

}  // namespace

SecretObject::SecretObject(std::string id, const qapi::SecretProperties& options,
                           const crypto::FindSecret& find)
    : UserObject(std::move(id), "secret"),
      options_(options),
      value_(crypto::load_secret(options, find)) {}

SecretObject::~SecretObject() {
  ::explicit_bzero(value_.data(), value_.size());
}

std::span<const Property> SecretObject::property_table() noexcept {
  return kProperties;
}

}  // namespace strata
