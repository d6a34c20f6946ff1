// SPDX-License-Identifier: GPL-2.0-or-later
//
// The objects authz-list, authz-list-file, authz-pam and authz-simple.
#pragma once

#include "block/export/access/authorization.h"
#include "qapi/types_authz.h"
#include "storage-daemon/objects/object.h"

namespace strata {

class AuthorizationObject : public UserObject {
 public:
  const std::shared_ptr<Authorization>& authorization() const noexcept { return authorization_; }

 protected:
  AuthorizationObject(std::string id, std::string_view type,
                      std::shared_ptr<Authorization> authorization)
      : UserObject(std::move(id), type), authorization_(std::move(authorization)) {}

 private:
  std::shared_ptr<Authorization> authorization_;
};

template <class Options>
class AuthorizationOf final : public AuthorizationObject {
 public:
  AuthorizationOf(std::string id, std::string_view type, Options options,
                  std::shared_ptr<Authorization> authorization)
      : AuthorizationObject(std::move(id), type, std::move(authorization)),
        options_(std::move(options)) {}

  std::span<const Property> properties() const noexcept override { return property_table(); }
  static std::span<const Property> property_table() noexcept;
  const Options& options() const noexcept { return options_; }

 private:
  Options options_;
};

using AuthzListObject = AuthorizationOf<qapi::AuthZListProperties>;
using AuthzListFileObject = AuthorizationOf<qapi::AuthZListFileProperties>;
using AuthzPamObject = AuthorizationOf<qapi::AuthZPAMProperties>;
using AuthzSimpleObject = AuthorizationOf<qapi::AuthZSimpleProperties>;

}  // namespace strata
