// SPDX-License-Identifier: GPL-2.0-or-later
//
// The objects tls-creds-anon, tls-creds-psk and tls-creds-x509.
#pragma once

#include "block/export/access/tls_credentials.h"
#include "qapi/types_crypto.h"
#include "storage-daemon/objects/object.h"

namespace strata {

// The options are kept as given; changing them does not change what has been loaded.
class TlsCredentialsObject : public UserObject {
 public:
  const std::shared_ptr<TlsCredentials>& credentials() const noexcept { return credentials_; }

 protected:
  TlsCredentialsObject(std::string id, std::string_view type,
                       std::shared_ptr<TlsCredentials> credentials)
      : UserObject(std::move(id), type), credentials_(std::move(credentials)) {}

 private:
  std::shared_ptr<TlsCredentials> credentials_;
};

template <class Options>
class TlsCredentialsOf final : public TlsCredentialsObject {
 public:
  TlsCredentialsOf(std::string id, std::string_view type, Options options,
                   std::shared_ptr<TlsCredentials> credentials)
      : TlsCredentialsObject(std::move(id), type, std::move(credentials)),
        options_(std::move(options)) {}

  std::span<const Property> properties() const noexcept override { return property_table(); }
  static std::span<const Property> property_table() noexcept;

  Options& options() noexcept { return options_; }
  const Options& options() const noexcept { return options_; }

 private:
  Options options_;
};

using TlsAnonObject = TlsCredentialsOf<qapi::TlsCredsAnonProperties>;
using TlsPskObject = TlsCredentialsOf<qapi::TlsCredsPskProperties>;
using TlsX509Object = TlsCredentialsOf<qapi::TlsCredsX509Properties>;

}  // namespace strata
