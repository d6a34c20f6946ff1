// SPDX-License-Identifier: GPL-2.0-or-later
//
// What one side of a TLS connection proves itself with, and knows the other side by.
#pragma once

#include <gnutls/gnutls.h>

#include <memory>
#include <optional>
#include <string>

namespace strata {

enum class TlsEndpoint { client, server };

// What all kinds have in common. The files' names are fixed; `dir` is where they are.
struct TlsOptions {
  TlsEndpoint endpoint = TlsEndpoint::client;
  bool verify_peer = true;
  std::string dir;
  std::optional<std::string> priority;  // GnuTLS's; nothing: the default
};

struct TlsX509Options : TlsOptions {
  bool sanity_check = true;
  std::optional<std::string> password;  // of the private key
};

struct TlsPskOptions : TlsOptions {
  std::optional<std::string> username;  // of a client; nothing: "qemu"
};

// Made in the main loop, and constant: any thread may begin sessions with them, and a session keeps
// them alive.
class TlsCredentials {
 public:
  enum class Kind { anonymous, psk, x509 };

  virtual ~TlsCredentials() = default;
  TlsCredentials(const TlsCredentials&) = delete;
  TlsCredentials& operator=(const TlsCredentials&) = delete;

  Kind kind() const noexcept { return kind_; }
  TlsEndpoint endpoint() const noexcept { return options_.endpoint; }
  bool verifies_peer() const noexcept { return options_.verify_peer; }
  // Ciphers and what else a session may agree on.
  std::string priority() const;
  // Gives a session of this side its credentials; returns GnuTLS's error.
  virtual int install(gnutls_session_t session) const noexcept = 0;

 protected:
  TlsCredentials(Kind kind, TlsOptions options) : kind_(kind), options_(std::move(options)) {}
  const TlsOptions& options() const noexcept { return options_; }
  // The path of a file of the directory; empty where it is not there and need not be. Throws Error.
  std::string find_file(std::string_view name, bool required) const;

 private:
  Kind kind_;
  TlsOptions options_;
};

// All throw Error: a file is missing, cannot be read, or says what will never work.
std::shared_ptr<TlsCredentials> load_anonymous_credentials(const TlsOptions& options);
std::shared_ptr<TlsCredentials> load_psk_credentials(const TlsPskOptions& options);
std::shared_ptr<TlsCredentials> load_x509_credentials(const TlsX509Options& options);

}  // namespace strata
