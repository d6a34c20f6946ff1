// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/access/tls_credentials.h"

#include "block/base/error.h"

namespace strata {
namespace {

void convert(const qapi::TlsCredsProperties& from, TlsOptions& to) {
  bool is_server = from.endpoint == qapi::QCryptoTLSCredsEndpoint::server;
  to.endpoint = is_server ? TlsEndpoint::server : TlsEndpoint::client;
  to.verify_peer = from.verify_peer.value_or(true);
  to.dir = from.dir.value_or("");
  to.priority = from.priority;
}

}  // namespace

std::shared_ptr<TlsCredentials> make_tls_credentials(const qapi::TlsCredsAnonProperties& options) {
  TlsOptions converted;
  convert(options, converted);
  return load_anonymous_credentials(converted);
}

std::shared_ptr<TlsCredentials> make_tls_credentials(const qapi::TlsCredsPskProperties& options) {
  TlsPskOptions converted;
  convert(options, converted);
  converted.username = options.username;
  return load_psk_credentials(converted);
}

std::shared_ptr<TlsCredentials> make_tls_credentials(const qapi::TlsCredsX509Properties& options,
                                                     const FindPassword& find) {
  TlsX509Options converted;
  convert(options, converted);
  converted.sanity_check = options.sanity_check.value_or(true);
  if (options.passwordid) {
    converted.password = find(*options.passwordid);
    if (!converted.password) throw Error("No secret with id '{}'", *options.passwordid);
  }
  return load_x509_credentials(converted);
}

}  // namespace strata
