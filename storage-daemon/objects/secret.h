// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>

#include "block/crypto/secret.h"
#include "storage-daemon/objects/object.h"

namespace strata {

// A password or key, given inline or in a file, perhaps itself encrypted with another secret.
class SecretObject final : public UserObject {
 public:
  // Throws Error.
  SecretObject(std::string id, const qapi::SecretProperties& options,
               const crypto::FindSecret& find);
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

}  // namespace strata
