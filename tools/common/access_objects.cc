// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/common/access_objects.h"

#include <map>

#include "block/base/error.h"
#include "qapi/types_qom.h"
#include "tools/common/objects.h"

namespace strata::tools {
namespace {

// A tool is a process with one command line.
struct Defined {
  std::map<std::string, std::shared_ptr<TlsCredentials>> credentials;
  std::map<std::string, std::shared_ptr<Authorization>> authorizations;
};
Defined& defined() {
  static Defined all;
  return all;
}

std::shared_ptr<TlsCredentials> make_credentials(const qapi::ObjectOptions& object,
                                                 const FindPassword& find_password) {
  if (const auto* anonymous = object.get_if<qapi::TlsCredsAnonProperties>())
    return make_tls_credentials(*anonymous);
  if (const auto* psk = object.get_if<qapi::TlsCredsPskProperties>())
    return make_tls_credentials(*psk);
  if (const auto* x509 = object.get_if<qapi::TlsCredsX509Properties>())
    return make_tls_credentials(*x509, find_password);
  return nullptr;
}

std::shared_ptr<Authorization> make_authorization_object(const qapi::ObjectOptions& object) {
  if (const auto* list = object.get_if<qapi::AuthZListProperties>())
    return make_authorization(*list);
  if (const auto* file = object.get_if<qapi::AuthZListFileProperties>())
    return make_authorization(*file);
  if (const auto* simple = object.get_if<qapi::AuthZSimpleProperties>())
    return make_authorization(*simple);
  if (const auto* pam = object.get_if<qapi::AuthZPAMProperties>()) return make_authorization(*pam);
  return nullptr;
}

}  // namespace

bool define_access_object(const qapi::ObjectOptions& object, const FindPassword& find_password) {
  bool is_new = true;
  if (auto credentials = make_credentials(object, find_password))
    is_new = defined().credentials.emplace(object.id, std::move(credentials)).second;
  else if (auto authorization = make_authorization_object(object))
    is_new = defined().authorizations.emplace(object.id, std::move(authorization)).second;
  else
    return false;
  if (!is_new)
    throw Error("attempt to add duplicate property '{}' to object (type 'container')", object.id);
  return true;
}

std::shared_ptr<TlsCredentials> find_defined_credentials(const std::string& id) {
  auto found = defined().credentials.find(id);
  if (found != defined().credentials.end()) return found->second;
  if (defined().authorizations.contains(id) || find_defined_secret(id))
    throw Error("Object with id '{}' is not TLS credentials", id);
  throw Error("No TLS credentials with id '{}'", id);
}

std::shared_ptr<Authorization> find_defined_authorization(const std::string& id) {
  auto found = defined().authorizations.find(id);
  if (found != defined().authorizations.end()) return found->second;
  if (defined().credentials.contains(id)) throw Error("Object '{}' is not a QAuthZ subclass", id);
  throw Error("Cannot find QAuthZ object ID {}", id);
}

}  // namespace strata::tools
