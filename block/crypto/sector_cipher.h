// SPDX-License-Identifier: GPL-2.0-or-later
//
// Encryption of a disk: each sector by itself, with an initialisation vector made from its number.
#pragma once

#include <optional>

#include "block/crypto/aes_xts.h"

namespace strata::crypto {

inline constexpr size_t kSectorBytes = 512;

struct CipherSpec {
  qapi::QCryptoCipherAlgo algorithm = qapi::QCryptoCipherAlgo::aes_256;
  qapi::QCryptoCipherMode mode = qapi::QCryptoCipherMode::xts;
  qapi::QCryptoIVGenAlgo ivgen = qapi::QCryptoIVGenAlgo::plain64;
  std::optional<qapi::QCryptoHashAlgo> ivgen_hash;

  // Of the whole key: XTS takes two.
  size_t key_bytes() const noexcept {
    return crypto::key_bytes(algorithm) * (mode == qapi::QCryptoCipherMode::xts ? 2 : 1);
  }
};

// Immutable once made: any number of threads may use one. Nothing here allocates.
class SectorCipher {
 public:
  // Throws Error where the parts do not go together.
  SectorCipher(const CipherSpec& spec, ConstBytes key);

  // In place; `bytes` is a multiple of kSectorBytes.
  void encrypt(uint64_t first_sector, std::byte* data, size_t bytes) const noexcept;
  void decrypt(uint64_t first_sector, std::byte* data, size_t bytes) const noexcept;

  // So much is worth the way to another thread.
  size_t bytes_worth_a_thread() const noexcept { return fast_xts_ ? 512 * 1024 : 32 * 1024; }

 private:
  using Iv = std::array<std::byte, kMaxCipherBlock>;

  void make_iv(uint64_t sector, Iv& iv) const noexcept;
  template <bool kEncrypt>
  void crypt_sector(uint64_t sector, std::byte* data) const noexcept;
  template <bool kEncrypt>
  void crypt_xts(std::byte* data, Iv& iv) const noexcept;
  void crypt_ctr(std::byte* data, Iv& iv) const noexcept;

  CipherSpec spec_;
  std::unique_ptr<const AesXts> fast_xts_;
  std::unique_ptr<const BlockCipher> cipher_;
  std::unique_ptr<const BlockCipher> tweak_;  // XTS
  std::unique_ptr<const BlockCipher> essiv_;
};

}  // namespace strata::crypto
