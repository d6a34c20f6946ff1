// SPDX-License-Identifier: GPL-2.0-or-later
//
// Block ciphers, a key already in them. Immutable once made: any number of threads may use one.
#pragma once

#include <memory>

#include "block/base/bytes.h"
#include "qapi/types_crypto.h"

namespace strata::crypto {

inline constexpr size_t kMaxCipherBlock = 16;  // bytes

// Bytes. Any algorithm has them, whether it can be used or not.
size_t key_bytes(qapi::QCryptoCipherAlgo algorithm) noexcept;
size_t block_bytes(qapi::QCryptoCipherAlgo algorithm) noexcept;

class BlockCipher {
 public:
  virtual ~BlockCipher() = default;
  BlockCipher(const BlockCipher&) = delete;
  BlockCipher& operator=(const BlockCipher&) = delete;

  size_t block() const noexcept { return block_; }
  // One block after the other, each by itself; `bytes` is a multiple of block(). In place is fine.
  virtual void encrypt(std::byte* out, const std::byte* in, size_t bytes) const noexcept = 0;
  virtual void decrypt(std::byte* out, const std::byte* in, size_t bytes) const noexcept = 0;
  // Cipher block chaining; `iv` is one block long and is changed to what the next block needs.
  virtual void encrypt_cbc(std::byte* data, size_t bytes, std::byte* iv) const noexcept = 0;
  virtual void decrypt_cbc(std::byte* data, size_t bytes, std::byte* iv) const noexcept = 0;

 protected:
  explicit BlockCipher(size_t block) noexcept : block_(block) {}

 private:
  size_t block_;
};

// Throws Error for an algorithm that is not there, or a key of another length than key_bytes().
std::unique_ptr<const BlockCipher> make_cipher(qapi::QCryptoCipherAlgo algorithm, ConstBytes key);

}  // namespace strata::crypto
