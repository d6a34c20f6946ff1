// SPDX-License-Identifier: GPL-2.0-or-later
//
// Hashes, and the key derivation that is built on them.
#pragma once

#include <chrono>
#include <vector>

#include "block/crypto/cipher.h"

namespace strata::crypto {

inline constexpr size_t kMaxDigest = 64;  // bytes

size_t digest_bytes(qapi::QCryptoHashAlgo algorithm) noexcept;

// The digest of the parts, one behind the other. `out` may be shorter than the digest.
void hash(qapi::QCryptoHashAlgo algorithm, std::initializer_list<ConstBytes> parts,
          Bytes out) noexcept;

// CPU time that a key derivation may take: what an image asks for may be without measure.
class CpuBudget {
 public:
  using Duration = std::chrono::nanoseconds;
  explicit CpuBudget(Duration total) noexcept : left_(total) {}
  Duration left() const noexcept { return left_; }
  void spend(Duration time) noexcept { left_ -= time; }
  bool exhausted() const noexcept { return left_ <= Duration::zero(); }

 private:
  Duration left_;
};

// PBKDF2 with HMAC. False where the budget ended first; `out` holds nothing useful then.
bool derive_key(qapi::QCryptoHashAlgo algorithm, ConstBytes password, ConstBytes salt,
                uint64_t iterations, Bytes out, CpuBudget& budget) noexcept;

// How many iterations for so long a key a library does on this machine in a second of CPU time:
// derive_key() may be faster, but who else opens the volume is not.
uint64_t iterations_per_second(qapi::QCryptoHashAlgo algorithm, size_t key_bytes) noexcept;

// Throws Error where the system has none.
void fill_random(Bytes out);

// Bytes that are wiped when they go.
class SecretBytes {
 public:
  SecretBytes() noexcept = default;
  explicit SecretBytes(size_t size) : bytes_(size) {}
  explicit SecretBytes(ConstBytes bytes) : bytes_(bytes.begin(), bytes.end()) {}
  SecretBytes(SecretBytes&&) noexcept = default;
  SecretBytes& operator=(SecretBytes&& other) noexcept {
    bytes_.swap(other.bytes_);
    return *this;
  }
  ~SecretBytes();

  size_t size() const noexcept { return bytes_.size(); }
  bool empty() const noexcept { return bytes_.empty(); }
  Bytes span() noexcept { return bytes_; }
  ConstBytes span() const noexcept { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace strata::crypto
