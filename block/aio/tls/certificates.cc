// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/tls/certificates.h"

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <time.h>

#include <memory>
#include <string_view>
#include <vector>

#include "block/base/error.h"

namespace strata {
namespace {

// The bundles of some systems hold hundreds.
constexpr size_t kMostFile = 16 << 20;

struct Deinit {
  void operator()(gnutls_x509_crt_t certificate) const noexcept {
    gnutls_x509_crt_deinit(certificate);
  }
};
using Certificate = std::unique_ptr<gnutls_x509_crt_int, Deinit>;

enum class Use { ca, server, client };

std::string_view name_of(Use use) {
  switch (use) {
    case Use::ca:
      return "CA";
    case Use::server:
      return "server";
    default:
      return "client";
  }
}

gnutls_datum_t datum_of(std::string& text) noexcept {
  return {reinterpret_cast<unsigned char*>(text.data()), static_cast<unsigned>(text.size())};
}

Certificate load_certificate(const std::string& path, Use use) {
  std::string pem = read_credentials_file(path, kMostFile);
  gnutls_x509_crt_t made = nullptr;
  if (int error = gnutls_x509_crt_init(&made); error < 0)
    throw Error("Unable to initialize certificate: {}", gnutls_strerror(error));
  Certificate certificate(made);
  gnutls_datum_t datum = datum_of(pem);
  if (int error = gnutls_x509_crt_import(made, &datum, GNUTLS_X509_FMT_PEM); error < 0)
    throw Error("Unable to import {} certificate {}: {}", name_of(use), path,
                gnutls_strerror(error));
  return certificate;
}

std::vector<Certificate> load_list(const std::string& path) {
  std::string pem = read_credentials_file(path, kMostFile);
  gnutls_datum_t datum = datum_of(pem);
  gnutls_x509_crt_t* list = nullptr;
  unsigned count = 0;
  if (gnutls_x509_crt_list_import2(&list, &count, &datum, GNUTLS_X509_FMT_PEM, 0) < 0)
    throw Error("Unable to import CA certificate list {}", path);
  std::vector<Certificate> certificates;
  for (unsigned i = 0; i < count; ++i) certificates.emplace_back(list[i]);
  gnutls_free(list);
  return certificates;
}

void check_times(gnutls_x509_crt_t certificate, const std::string& path, Use use) {
  time_t now = ::time(nullptr);
  if (gnutls_x509_crt_get_expiration_time(certificate) < now)
    throw Error("The {} certificate {} has expired", name_of(use), path);
  if (gnutls_x509_crt_get_activation_time(certificate) > now)
    throw Error("The {} certificate {} is not yet active", name_of(use), path);
}

void check_constraints(gnutls_x509_crt_t certificate, const std::string& path, Use use) {
  int status = gnutls_x509_crt_get_basic_constraints(certificate, nullptr, nullptr, nullptr);
  if (status > 0) {
    if (use != Use::ca)
      throw Error("The certificate {} basic constraints show a CA, but we need one for a {}", path,
                  name_of(use));
  } else if (status == 0) {
    if (use == Use::ca) throw Error("The certificate {} basic constraints do not show a CA", path);
  } else if (status == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) {
    if (use == Use::ca)
      throw Error("The certificate {} is missing basic constraints for a CA", path);
  } else {
    throw Error("Unable to query certificate {} basic constraints: {}", path,
                gnutls_strerror(status));
  }
}

void check_usage(gnutls_x509_crt_t certificate, const std::string& path, Use use) {
  unsigned usage = 0;
  unsigned critical = 0;
  int status = gnutls_x509_crt_get_key_usage(certificate, &usage, &critical);
  if (status == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) return;  // not restricted
  if (status < 0)
    throw Error("Unable to query certificate {} key usage: {}", path, gnutls_strerror(status));
  // What is not critical is advice.
  if (critical == 0) return;
  if (use == Use::ca) {
    if ((usage & GNUTLS_KEY_KEY_CERT_SIGN) == 0)
      throw Error("Certificate {} usage does not permit certificate signing", path);
  } else if ((usage & GNUTLS_KEY_DIGITAL_SIGNATURE) == 0) {
    throw Error("Certificate {} usage does not permit digital signature", path);
  }
}

void check_purpose(gnutls_x509_crt_t certificate, const std::string& path, Use use) {
  bool allows_server = false;
  bool allows_client = false;
  bool is_restricted = false;
  unsigned critical = 0;
  for (unsigned i = 0;; ++i) {
    char purpose[128];
    size_t size = sizeof purpose;
    unsigned is_critical = 0;
    int status = gnutls_x509_crt_get_key_purpose_oid(certificate, i, purpose, &size, &is_critical);
    if (status == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) break;
    if (status == GNUTLS_E_SHORT_MEMORY_BUFFER) {
      is_restricted = true;  // none that is known is that long
      continue;
    }
    if (status < 0)
      throw Error("Unable to query certificate {} key purpose: {}", path, gnutls_strerror(status));
    is_restricted = true;
    critical |= is_critical;
    std::string_view oid(purpose);
    allows_server |= oid == GNUTLS_KP_TLS_WWW_SERVER || oid == GNUTLS_KP_ANY;
    allows_client |= oid == GNUTLS_KP_TLS_WWW_CLIENT || oid == GNUTLS_KP_ANY;
  }
  if (!is_restricted || critical == 0) return;
  if (use == Use::server && !allows_server)
    throw Error("Certificate {} purpose does not allow use with a TLS server", path);
  if (use == Use::client && !allows_client)
    throw Error("Certificate {} purpose does not allow use with a TLS client", path);
}

void check(gnutls_x509_crt_t certificate, const std::string& path, Use use) {
  check_times(certificate, path, use);
  check_constraints(certificate, path, use);
  check_usage(certificate, path, use);
  if (use != Use::ca) check_purpose(certificate, path, use);
}

void check_signature(gnutls_x509_crt_t certificate, const std::vector<Certificate>& authorities,
                     const CertificateFiles& files) {
  std::vector<gnutls_x509_crt_t> trusted;
  for (const Certificate& authority : authorities) trusted.push_back(authority.get());
  unsigned status = 0;
  int error = gnutls_x509_crt_list_verify(&certificate, 1, trusted.data(),
                                          static_cast<int>(trusted.size()), nullptr, 0, 0, &status);
  if (error < 0)
    throw Error("Unable to verify {} certificate {} against CA certificate {}",
                files.is_server ? "server" : "client", files.certificate, files.ca);
  if (status == 0) return;
  std::string_view reason = "Invalid certificate";
  if ((status & GNUTLS_CERT_INVALID) != 0) reason = "The certificate is not trusted";
  if ((status & GNUTLS_CERT_SIGNER_NOT_FOUND) != 0)
    reason = "The certificate hasn't got a known issuer";
  if ((status & GNUTLS_CERT_REVOKED) != 0) reason = "The certificate has been revoked";
  if ((status & GNUTLS_CERT_INSECURE_ALGORITHM) != 0)
    reason = "The certificate uses an insecure algorithm";
  throw Error("Our own certificate {} failed validation against {}: {}", files.certificate,
              files.ca, reason);
}

}  // namespace

void check_certificates(const CertificateFiles& files) {
  Use use = files.is_server ? Use::server : Use::client;
  Certificate own;
  if (!files.certificate.empty()) own = load_certificate(files.certificate, use);
  std::vector<Certificate> authorities = load_list(files.ca);
  if (own) check(own.get(), files.certificate, use);
  for (const Certificate& authority : authorities) check(authority.get(), files.ca, Use::ca);
  if (own) check_signature(own.get(), authorities, files);
}

}  // namespace strata
