// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a secret object holds: a password or key, given inline or in a file, perhaps itself
// encrypted with another secret.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "qapi/types_crypto.h"

namespace strata::crypto {

// The value of another secret; nothing where there is none of that id.
using FindSecret = std::function<std::optional<std::string>(std::string_view id)>;

// The secret itself: decoded and decrypted bytes. Reads the file. Throws Error.
std::string load_secret(const qapi::SecretProperties& options, const FindSecret& find);

// AES-256 in CBC mode with PKCS#7 padding; the key has 32 bytes. Throws Error with QEMU's texts.
std::string decrypt_secret(std::string ciphertext, const std::string& key, std::string iv);

}  // namespace strata::crypto
