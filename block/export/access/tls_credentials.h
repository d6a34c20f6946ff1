// SPDX-License-Identifier: GPL-2.0-or-later
//
// The objects tls-creds-*: from the schema's form to what block/aio makes sessions with.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "block/aio/tls/credentials.h"
#include "qapi/types_crypto.h"

namespace strata {

// What the secret of that id holds; nothing where there is none.
using FindPassword = std::function<std::optional<std::string>(const std::string& id)>;

// All throw Error.
std::shared_ptr<TlsCredentials> make_tls_credentials(const qapi::TlsCredsAnonProperties& options);
std::shared_ptr<TlsCredentials> make_tls_credentials(const qapi::TlsCredsPskProperties& options);
std::shared_ptr<TlsCredentials> make_tls_credentials(const qapi::TlsCredsX509Properties& options,
                                                     const FindPassword& find);

}  // namespace strata
