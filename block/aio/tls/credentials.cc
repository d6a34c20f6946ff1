// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/tls/credentials.h"

#include <fcntl.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif
#include <unistd.h>

#include <array>
#include <cerrno>

#include "block/aio/tls/certificates.h"
#include "block/base/error.h"
#include "block/base/unique_fd.h"

namespace strata {
namespace {

constexpr size_t kMostKeyFile = 1 << 20;

std::string_view text_of(int error) {
  return gnutls_strerror(error);
}

// The parameters of Diffie and Hellman, where somebody has left some.
template <class Import>
void load_dh_parameters(const std::string& path, Import import) {
  if (path.empty()) return;
  std::string pem = read_credentials_file(path, kMostKeyFile);
  gnutls_datum_t datum{reinterpret_cast<unsigned char*>(pem.data()),
                       static_cast<unsigned>(pem.size())};
  if (int error = import(&datum); error < 0)
    throw Error("Unable to load DH parameters from {}: {}", path, text_of(error));
}

// ---- Anonymous

class AnonymousCredentials final : public TlsCredentials {
 public:
  explicit AnonymousCredentials(const TlsOptions& options)
      : TlsCredentials(Kind::anonymous, options) {
    int error = endpoint() == TlsEndpoint::server
                    ? gnutls_anon_allocate_server_credentials(&server_)
                    : gnutls_anon_allocate_client_credentials(&client_);
    if (error < 0) throw Error("Cannot allocate credentials: {}", text_of(error));
    if (endpoint() == TlsEndpoint::client) return;
    std::string parameters = options.dir.empty() ? "" : find_file("dh-params.pem", false);
    if (parameters.empty())
      gnutls_anon_set_server_known_dh_params(server_, GNUTLS_SEC_PARAM_MEDIUM);
    load_dh_parameters(parameters, [this](const gnutls_datum_t* pem) {
      int failed = gnutls_dh_params_init(&dh_);
      if (failed >= 0) failed = gnutls_dh_params_import_pkcs3(dh_, pem, GNUTLS_X509_FMT_PEM);
      if (failed >= 0) gnutls_anon_set_server_dh_params(server_, dh_);
      return failed;
    });
  }
  ~AnonymousCredentials() override {
    if (server_ != nullptr) gnutls_anon_free_server_credentials(server_);
    if (client_ != nullptr) gnutls_anon_free_client_credentials(client_);
    if (dh_ != nullptr) gnutls_dh_params_deinit(dh_);
  }

  int install(gnutls_session_t session) const noexcept override {
    void* credentials = server_ != nullptr ? static_cast<void*>(server_) : client_;
    return gnutls_credentials_set(session, GNUTLS_CRD_ANON, credentials);
  }

 private:
  gnutls_anon_server_credentials_t server_ = nullptr;
  gnutls_anon_client_credentials_t client_ = nullptr;
  gnutls_dh_params_t dh_ = nullptr;
};

// ---- Pre-shared keys

// The key of `username` in a file of lines "NAME:HEX".
std::string find_key(const std::string& path, const std::string& username) {
  std::string text = read_credentials_file(path, kMostKeyFile);
  for (std::string_view left = text; !left.empty();) {
    size_t end = left.find('\n');
    std::string_view line = left.substr(0, end);
    left.remove_prefix(end == left.npos ? left.size() : end + 1);
    if (line.size() > username.size() && line.starts_with(username) &&
        line[username.size()] == ':') {
      line.remove_prefix(username.size() + 1);
      while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
      return std::string(line);
    }
  }
  throw Error("Username {} not found in PSK file {}", username, path);
}

class PskCredentials final : public TlsCredentials {
 public:
  explicit PskCredentials(const TlsPskOptions& options) : TlsCredentials(Kind::psk, options) {
    if (endpoint() == TlsEndpoint::server && options.username)
      throw Error("username should not be set when endpoint=server");
    std::string keys = find_file("keys.psk", true);
    if (endpoint() == TlsEndpoint::server)
      load_server(keys);
    else
      load_client(keys, options.username.value_or("qemu"));
  }
  ~PskCredentials() override {
    if (server_ != nullptr) gnutls_psk_free_server_credentials(server_);
    if (client_ != nullptr) gnutls_psk_free_client_credentials(client_);
    if (dh_ != nullptr) gnutls_dh_params_deinit(dh_);
  }

  int install(gnutls_session_t session) const noexcept override {
    void* credentials = server_ != nullptr ? static_cast<void*>(server_) : client_;
    return gnutls_credentials_set(session, GNUTLS_CRD_PSK, credentials);
  }

 private:
  void load_server(const std::string& keys) {
    if (int error = gnutls_psk_allocate_server_credentials(&server_); error < 0)
      throw Error("Cannot allocate credentials: {}", text_of(error));
    std::string parameters = find_file("dh-params.pem", false);
    if (parameters.empty()) gnutls_psk_set_server_known_dh_params(server_, GNUTLS_SEC_PARAM_MEDIUM);
    load_dh_parameters(parameters, [this](const gnutls_datum_t* pem) {
      int failed = gnutls_dh_params_init(&dh_);
      if (failed >= 0) failed = gnutls_dh_params_import_pkcs3(dh_, pem, GNUTLS_X509_FMT_PEM);
      if (failed >= 0) gnutls_psk_set_server_dh_params(server_, dh_);
      return failed;
    });
    if (int error = gnutls_psk_set_server_credentials_file(server_, keys.c_str()); error < 0)
      throw Error("Cannot set PSK server credentials: {}", text_of(error));
  }

  void load_client(const std::string& keys, const std::string& username) {
    if (int error = gnutls_psk_allocate_client_credentials(&client_); error < 0)
      throw Error("Cannot allocate credentials: {}", text_of(error));
    std::string key = find_key(keys, username);
    gnutls_datum_t datum{reinterpret_cast<unsigned char*>(key.data()),
                         static_cast<unsigned>(key.size())};
    int error =
        gnutls_psk_set_client_credentials(client_, username.c_str(), &datum, GNUTLS_PSK_KEY_HEX);
    explicit_bzero(key.data(), key.size());
    if (error < 0) throw Error("Cannot set PSK client credentials: {}", text_of(error));
  }

  gnutls_psk_server_credentials_t server_ = nullptr;
  gnutls_psk_client_credentials_t client_ = nullptr;
  gnutls_dh_params_t dh_ = nullptr;
};

// ---- Certificates

class X509Credentials final : public TlsCredentials {
 public:
  explicit X509Credentials(const TlsX509Options& options) : TlsCredentials(Kind::x509, options) {
    bool is_server = endpoint() == TlsEndpoint::server;
    std::string side = is_server ? "server" : "client";
    CertificateFiles files{
        .ca = find_file("ca-cert.pem", true),
        .crl = find_file("ca-crl.pem", false),
        .certificate = find_file(side + "-cert.pem", is_server),
        .key = find_file(side + "-key.pem", is_server),
        .is_server = is_server,
    };
    std::string parameters = is_server ? find_file("dh-params.pem", false) : "";
    if (options.sanity_check) check_certificates(files);
    if (int error = gnutls_certificate_allocate_credentials(&credentials_); error < 0)
      throw Error("Cannot allocate credentials: '{}'", text_of(error));
    load(files, options.password);
    if (!is_server) return;
    if (parameters.empty())
      gnutls_certificate_set_known_dh_params(credentials_, GNUTLS_SEC_PARAM_MEDIUM);
    load_dh_parameters(parameters, [this](const gnutls_datum_t* pem) {
      int failed = gnutls_dh_params_init(&dh_);
      if (failed >= 0) failed = gnutls_dh_params_import_pkcs3(dh_, pem, GNUTLS_X509_FMT_PEM);
      if (failed >= 0) gnutls_certificate_set_dh_params(credentials_, dh_);
      return failed;
    });
  }
  ~X509Credentials() override {
    if (credentials_ != nullptr) gnutls_certificate_free_credentials(credentials_);
    if (dh_ != nullptr) gnutls_dh_params_deinit(dh_);
  }

  int install(gnutls_session_t session) const noexcept override {
    int error = gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials_);
    // Who shows no certificate is judged after the handshake, in words.
    if (error >= 0 && endpoint() == TlsEndpoint::server)
      gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUEST);
    return error;
  }

 private:
  void load(const CertificateFiles& files, const std::optional<std::string>& password) {
    int error =
        gnutls_certificate_set_x509_trust_file(credentials_, files.ca.c_str(), GNUTLS_X509_FMT_PEM);
    if (error < 0) throw Error("Cannot load CA certificate '{}': {}", files.ca, text_of(error));
    if (!files.certificate.empty() && !files.key.empty()) {
      error = gnutls_certificate_set_x509_key_file2(credentials_, files.certificate.c_str(),
                                                    files.key.c_str(), GNUTLS_X509_FMT_PEM,
                                                    password ? password->c_str() : nullptr, 0);
      if (error < 0)
        throw Error("Cannot load certificate '{}' & key '{}': {}", files.certificate, files.key,
                    text_of(error));
    }
    if (files.crl.empty()) return;
    error =
        gnutls_certificate_set_x509_crl_file(credentials_, files.crl.c_str(), GNUTLS_X509_FMT_PEM);
    if (error < 0) throw Error("Cannot load CRL '{}': {}", files.crl, text_of(error));
  }

  gnutls_certificate_credentials_t credentials_ = nullptr;
  gnutls_dh_params_t dh_ = nullptr;
};

}  // namespace

std::string read_credentials_file(const std::string& path, size_t most) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) throw Error::from_errno(errno, "Unable to access credentials {}", path);
  std::string text;
  std::array<char, 4096> buffer;
  for (;;) {
    ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
    if (got < 0) throw Error::from_errno(errno, "Unable to access credentials {}", path);
    if (got == 0) return text;
    text.append(buffer.data(), static_cast<size_t>(got));
    if (text.size() > most) throw Error("Credentials {} are too long", path);
  }
}

namespace {

// Where the processor knows AES, nothing else comes near to its speed, and the server's order
// counts: keys that are shared beforehand would otherwise lead to CHACHA20, which is a tenth as
// fast.
constexpr std::string_view kFastAes =
    ":-CHACHA20-POLY1305:-AES-256-CCM:-AES-128-CCM:-AES-256-CBC:-AES-128-CBC"
    ":+CHACHA20-POLY1305:+AES-256-CCM:+AES-128-CCM:+AES-256-CBC:+AES-128-CBC:%SERVER_PRECEDENCE";

bool has_fast_aes() noexcept {
#if defined(__x86_64__)
  return __builtin_cpu_supports("aes") != 0 && __builtin_cpu_supports("pclmul") != 0;
#elif defined(__aarch64__)
  return (::getauxval(AT_HWCAP) & HWCAP_AES) != 0;
#else
  return false;
#endif
}

std::string default_priority() {
  std::string priority = "NORMAL";
  if (has_fast_aes()) priority += kFastAes;
  return priority;
}

}  // namespace

std::string TlsCredentials::priority() const {
  std::string chosen = options_.priority ? *options_.priority : default_priority();
  switch (kind_) {
    case Kind::anonymous:
      return chosen + ":+ANON-DH";
    case Kind::psk:
      return chosen + ":+ECDHE-PSK:+DHE-PSK:+PSK";
    default:
      return chosen;
  }
}

std::string TlsCredentials::find_file(std::string_view name, bool required) const {
  if (options_.dir.empty()) {
    if (required) throw Error("Missing 'dir' property value");
    return {};
  }
  std::string path = options_.dir + "/" + std::string(name);
  if (::access(path.c_str(), R_OK) == 0) return path;
  if (errno == ENOENT && !required) return {};
  throw Error::from_errno(errno, "Unable to access credentials {}", path);
}

std::shared_ptr<TlsCredentials> load_anonymous_credentials(const TlsOptions& options) {
  return std::make_shared<AnonymousCredentials>(options);
}
std::shared_ptr<TlsCredentials> load_psk_credentials(const TlsPskOptions& options) {
  return std::make_shared<PskCredentials>(options);
}
std::shared_ptr<TlsCredentials> load_x509_credentials(const TlsX509Options& options) {
  return std::make_shared<X509Credentials>(options);
}

}  // namespace strata
