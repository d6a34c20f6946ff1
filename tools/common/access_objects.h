// SPDX-License-Identifier: GPL-2.0-or-later
//
// Objects of --object that say who may talk to whom: tls-creds-* and authz-*.
#pragma once

#include <memory>
#include <string>

#include "block/export/access/authorization.h"
#include "block/export/access/tls_credentials.h"

namespace strata::qapi {
struct ObjectOptions;
}

namespace strata::tools {

// False where the object is of another kind. Throws Error.
bool define_access_object(const qapi::ObjectOptions& object, const FindPassword& find_password);

// Both throw Error where there is none of that id.
std::shared_ptr<TlsCredentials> find_defined_credentials(const std::string& id);
std::shared_ptr<Authorization> find_defined_authorization(const std::string& id);

}  // namespace strata::tools
