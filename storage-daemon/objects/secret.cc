// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/objects/secret.h"

#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <string.h>
#include <unistd.h>

#include <array>

#include "block/base/error.h"
#include "block/base/unique_fd.h"
#include "qapi/runtime/visitor.h"
#include "qapi/visit_crypto.h"
#include "storage-daemon/base64.h"

namespace strata {

using boost::json::value;
using qapi::QCryptoSecretFormat;

struct SecretAccess {
  static const qapi::SecretProperties& options(const UserObject& object) {
    return static_cast<const SecretObject&>(object).options_;
  }
  static qapi::SecretProperties& options(UserObject& object) {
    return static_cast<SecretObject&>(object).options_;
  }
};

namespace {

constexpr size_t kBlock = 16;  // of AES, bytes
constexpr size_t kKey = 32;
constexpr size_t kMaxSecret = 1 << 20;

std::string read_file(const std::string& path) {
  auto fail = [&path](std::string_view what, int error) -> Error {
    return Error("Unable to read {0}: Failed to {1} file \u201C{0}\u201D: {2}", path, what,
                 Error::describe_errno(error));
  };
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) throw fail("open", errno);
  std::string data;
  std::array<char, 4096> buffer;
  for (;;) {
    ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
    if (got < 0) throw fail("read from", errno);
    if (got == 0) return data;
    data.append(buffer.data(), static_cast<size_t>(got));
    if (data.size() > kMaxSecret) throw Error("Secret in {} is too long", path);
  }
}

value get_keyid(const UserObject& object) {
  return value(SecretAccess::options(object).keyid.value_or(""));
}
value get_iv(const UserObject& object) {
  return value(SecretAccess::options(object).iv.value_or(""));
}
value get_data(const UserObject& object) {
  return value(SecretAccess::options(object).data.value_or(""));
}
value get_file(const UserObject& object) {
  return value(SecretAccess::options(object).file.value_or(""));
}
value get_format(const UserObject& object) {
  return value(to_string(SecretAccess::options(object).format.value_or(QCryptoSecretFormat::raw)));
}

constexpr std::array kProperties{
    Property{
        "iv", "string", get_iv,
        [](UserObject& o, const value& v) { SecretAccess::options(o).iv = string_of(v, "iv"); }},
    Property{"keyid", "string", get_keyid,
             [](UserObject& o, const value& v) {
               SecretAccess::options(o).keyid = string_of(v, "keyid");
             }},
    Property{"format", "QCryptoSecretFormat", get_format,
             [](UserObject& o, const value& v) {
               SecretAccess::options(o).format = qapi::from_json<QCryptoSecretFormat>(v, "format");
             }},
    Property{"file", "string", get_file,
             [](UserObject& o, const value& v) {
               SecretAccess::options(o).file = string_of(v, "file");
             }},
    Property{"data", "string", get_data,
             [](UserObject& o, const value& v) {
               SecretAccess::options(o).data = string_of(v, "data");
             }},
};

}  // namespace

std::string decrypt_secret(std::string ciphertext, const std::string& key, const std::string& iv) {
  if (iv.size() != kBlock) throw Error("IV should be {} bytes in length not {}", kBlock, iv.size());
  if (ciphertext.size() % kBlock != 0)
    throw Error("Length {} must be a multiple of block size {}", ciphertext.size(), kBlock);
  auto datum = [](const std::string& bytes) {
    return gnutls_datum_t{reinterpret_cast<unsigned char*>(const_cast<char*>(bytes.data())),
                          static_cast<unsigned>(bytes.size())};
  };
  gnutls_datum_t key_datum = datum(key);
  gnutls_datum_t iv_datum = datum(iv);
  gnutls_cipher_hd_t cipher = nullptr;
  int error = gnutls_cipher_init(&cipher, GNUTLS_CIPHER_AES_256_CBC, &key_datum, &iv_datum);
  if (error == 0) {
    error = gnutls_cipher_decrypt(cipher, ciphertext.data(), ciphertext.size());
    gnutls_cipher_deinit(cipher);
  }
  if (error != 0) throw Error("Unable to decrypt secret: {}", gnutls_strerror(error));
  size_t padding = ciphertext.empty() ? 0 : static_cast<unsigned char>(ciphertext.back());
  if (padding == 0 || padding > kBlock || padding > ciphertext.size())
    throw Error("Incorrect number of padding bytes ({}) found on decrypted data", padding);
  ciphertext.resize(ciphertext.size() - padding);
  return ciphertext;
}

SecretObject::SecretObject(std::string id, const qapi::SecretProperties& options, const Find& find)
    : UserObject(std::move(id), "secret"), options_(options) {
  if (options.file && options.data) throw Error("'file' and 'data' are mutually exclusive");
  if (!options.file && !options.data) throw Error("Either 'file' or 'data' must be provided");
  std::string input = options.file ? read_file(*options.file) : *options.data;
  bool is_base64 = options.format == QCryptoSecretFormat::base64;
  if (!options.keyid) {
    value_ = is_base64 ? decode_base64(input) : std::move(input);
    return;
  }
  const SecretObject* key = find(*options.keyid);
  if (key == nullptr) throw Error("No secret with id '{}'", *options.keyid);
  if (key->value().size() != kKey) throw Error("Key should be {} bytes in length", kKey);
  if (!options.iv) throw Error("IV is required to decrypt secret");
  if (is_base64) input = decode_base64(input);
  value_ = decrypt_secret(std::move(input), key->value(), decode_base64(*options.iv));
}

SecretObject::~SecretObject() {
  ::explicit_bzero(value_.data(), value_.size());
}

std::span<const Property> SecretObject::property_table() noexcept {
  return kProperties;
}

}  // namespace strata
