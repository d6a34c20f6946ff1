// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <functional>
#include <string>

#include "qapi/types_crypto.h"
#include "storage-daemon/objects/object.h"

namespace strata {

// A password or key, given inline or in a file, perhaps itself encrypted with another secret.
class SecretObject final : public UserObject {
 public:
  using Find = std::function<const SecretObject*(std::string_view id)>;

  // Throws Error.
  SecretObject(std::string id, const qapi::SecretProperties& options, const Find& find);
  ~SecretObject() override;

  // The secret itself: decoded and decrypted bytes.
  const std::string& value() const noexcept { return value_; }

  std::span<const Property> properties() const noexcept override { return property_table(); }
  static std::span<const Property> property_table() noexcept;

 private:
  friend struct SecretAccess;

  // As given. Changing them does not change the value.
  qapi::SecretProperties options_;
  std::string value_;
};

// AES-256 in CBC mode with PKCS#7 padding; the key has 32 bytes. Throws Error with QEMU's texts.
std::string decrypt_secret(std::string ciphertext, const std::string& key, const std::string& iv);

}  // namespace strata
