// SPDX-License-Identifier: GPL-2.0-or-later
//
// The header of a LUKS volume, version 1: bytes to values and back, and its anti-forensic
// splitter. Pure functions.
#pragma once

#include <array>
#include <string>

#include "block/crypto/hash.h"
#include "block/crypto/sector_cipher.h"

namespace strata::crypto {

inline constexpr size_t kLuksHeaderBytes = 592;
inline constexpr size_t kLuksSlots = 8;
inline constexpr size_t kLuksSalt = 32;
inline constexpr size_t kLuksDigest = 20;
inline constexpr uint32_t kLuksStripes = 4000;
inline constexpr uint64_t kLuksAlignment = 4096;  // bytes; where key material starts
inline constexpr size_t kMaxLuksKey = 64;         // bytes
inline constexpr uint32_t kLuksMinIterations = 1000;

struct LuksSlot {
  bool active = false;
  uint32_t iterations = 0;
  std::array<std::byte, kLuksSalt> salt{};
  uint32_t key_sector = 0;  // where the key material starts
  uint32_t stripes = kLuksStripes;
  friend bool operator==(const LuksSlot&, const LuksSlot&) = default;

  uint64_t key_offset() const noexcept { return uint64_t{key_sector} * kSectorBytes; }
};

struct LuksHeader {
  std::string cipher_name;  // "aes"
  std::string cipher_mode;  // "xts-plain64"
  std::string hash_name;    // "sha256"
  uint32_t payload_sector = 0;
  uint32_t key_bytes = 0;
  std::array<std::byte, kLuksDigest> digest{};  // of the master key
  std::array<std::byte, kLuksSalt> digest_salt{};
  uint32_t digest_iterations = 0;
  std::string uuid;
  std::array<LuksSlot, kLuksSlots> slots;
  friend bool operator==(const LuksHeader&, const LuksHeader&) = default;

  uint64_t payload_offset() const noexcept { return uint64_t{payload_sector} * kSectorBytes; }
  // Of the key material of one slot, whole sectors.
  size_t material_bytes() const noexcept {
    return (size_t{key_bytes} * kLuksStripes + kSectorBytes - 1) / kSectorBytes * kSectorBytes;
  }
};

// What the names in a header mean.
struct LuksParameters {
  CipherSpec cipher;
  qapi::QCryptoHashAlgo hash = qapi::QCryptoHashAlgo::sha256;
};

// `bytes`: at least kLuksHeaderBytes, or all there is. `detached`: the payload lies elsewhere, so
// that nothing here can overlap it. All of it has been checked when this returns a header: keys and
// key material are of bounded size, and where they lie makes sense.
Decoded<LuksHeader> parse_luks_header(ConstBytes bytes, bool detached);
// kLuksHeaderBytes of them.
std::vector<std::byte> encode_luks_header(const LuksHeader& header);

// Fails for what is not known.
Decoded<LuksParameters> luks_parameters(const LuksHeader& header);
// The names, the size of the key, and the places of key material and payload. Throws Error for
// what LUKS has no name for.
LuksHeader plan_luks_header(const LuksParameters& parameters, bool detached);

// `key` spread over kLuksStripes pieces of its size, so that all of them are needed to find it.
// Throws Error where there is no randomness.
void split_key(qapi::QCryptoHashAlgo hash, ConstBytes key, Bytes stripes);
void merge_key(qapi::QCryptoHashAlgo hash, ConstBytes stripes, Bytes key) noexcept;

}  // namespace strata::crypto
