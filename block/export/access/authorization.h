// SPDX-License-Identifier: GPL-2.0-or-later
//
// Who may come in: the objects authz-*, by the name a client has proved to have.
#pragma once

#include <memory>
#include <string>

#include "block/coro/task.h"
#include "qapi/types_authz.h"

namespace strata {

class Authorization {
 public:
  virtual ~Authorization() = default;
  // In the main loop. False, too, where it cannot be found out; that is logged.
  virtual Task<bool> allows(std::string identity) = 0;
};

// All throw Error.
std::shared_ptr<Authorization> make_authorization(const qapi::AuthZListProperties& options);
std::shared_ptr<Authorization> make_authorization(const qapi::AuthZListFileProperties& options);
std::shared_ptr<Authorization> make_authorization(const qapi::AuthZSimpleProperties& options);
std::shared_ptr<Authorization> make_authorization(const qapi::AuthZPAMProperties& options);

}  // namespace strata
