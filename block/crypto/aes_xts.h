// SPDX-License-Identifier: GPL-2.0-or-later
//
// AES in XTS mode with the processor's instructions, several blocks at a time.
#pragma once

#include <array>
#include <memory>

#include "block/crypto/cipher.h"

namespace strata::crypto {

// Immutable once made: any number of threads may use one.
class AesXts {
 public:
  // Null where the processor, or the build, has no such instructions. `key` is the key of the data
  // followed by that of the tweak: 32, 48 or 64 bytes.
  static std::unique_ptr<const AesXts> make(ConstBytes key);
  ~AesXts();

  // One data unit, a multiple of 16 bytes, in place. `iv`: 16 bytes.
  void encrypt(std::byte* data, size_t bytes, const std::byte* iv) const noexcept;
  void decrypt(std::byte* data, size_t bytes, const std::byte* iv) const noexcept;

 private:
  static constexpr size_t kMostRoundKeys = 15;
  using Schedule = std::array<std::byte, kMostRoundKeys * 16>;

  AesXts() noexcept = default;

  alignas(16) Schedule encrypting_;
  alignas(16) Schedule decrypting_;
  alignas(16) Schedule tweaking_;
  unsigned rounds_ = 0;
};

}  // namespace strata::crypto
