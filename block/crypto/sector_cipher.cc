// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/crypto/sector_cipher.h"

#include <algorithm>
#include <cstring>

#include "block/base/error.h"
#include "block/crypto/hash.h"

namespace strata::crypto {
namespace {

using Algo = qapi::QCryptoCipherAlgo;
using Mode = qapi::QCryptoCipherMode;
using IvGen = qapi::QCryptoIVGenAlgo;

struct Family {
  const char* name;
  Algo members[3];
};
constexpr Family kFamilies[]{
    {"AES", {Algo::aes_128, Algo::aes_192, Algo::aes_256}},
    {"Serpent", {Algo::serpent_128, Algo::serpent_192, Algo::serpent_256}},
    {"Twofish", {Algo::twofish_128, Algo::twofish_192, Algo::twofish_256}},
};

// The cipher that encrypts sector numbers has the digest of the key for its key.
Algo essiv_algorithm(Algo data, size_t digest) {
  for (const Family& family : kFamilies) {
    bool is_of_it = std::find(std::begin(family.members), std::end(family.members), data) !=
                    std::end(family.members);
    if (!is_of_it) continue;
    for (Algo member : family.members)
      if (key_bytes(member) == digest) return member;
    throw Error("No {} cipher with key size {} available", family.name, digest);
  }
  throw Error("Cipher {} not supported with essiv", qapi::to_string(data));
}

}  // namespace

SectorCipher::SectorCipher(const CipherSpec& spec, ConstBytes key) : spec_(spec) {
  if (key.size() != spec.key_bytes())
    throw Error("Cipher key length {} should be {}", key.size(), spec.key_bytes());
  if (spec.mode == Mode::xts) {
    if (block_bytes(spec.algorithm) != 16)
      throw Error("Unsupported cipher mode {}", qapi::to_string(spec.mode));
    bool is_aes = spec.algorithm == Algo::aes_128 || spec.algorithm == Algo::aes_192 ||
                  spec.algorithm == Algo::aes_256;
    if (is_aes) fast_xts_ = AesXts::make(key);
    tweak_ = make_cipher(spec.algorithm, key.subspan(key.size() / 2));
  }
  cipher_ = make_cipher(spec.algorithm, key.first(key_bytes(spec.algorithm)));
  if (spec.ivgen == IvGen::essiv) {
    if (!spec.ivgen_hash) throw Error("Hash algorithm is required for essiv");
    SecretBytes digest(digest_bytes(*spec.ivgen_hash));
    hash(*spec.ivgen_hash, {key}, digest.span());
    essiv_ = make_cipher(essiv_algorithm(spec.algorithm, digest.size()), digest.span());
  }
}

void SectorCipher::make_iv(uint64_t sector, Iv& iv) const noexcept {
  if (spec_.ivgen == IvGen::plain) sector &= 0xffffffff;
  iv.fill(std::byte{0});
  for (unsigned i = 0; i < 8; ++i) iv[i] = std::byte(sector >> (8 * i));
  if (essiv_) essiv_->encrypt(iv.data(), iv.data(), essiv_->block());
}

// The blocks are masked with the tweaks, encrypted all at once, and masked again.
template <bool kEncrypt>
void SectorCipher::crypt_xts(std::byte* data, Iv& iv) const noexcept {
  constexpr size_t kWords = kSectorBytes / 8;
  std::array<uint64_t, kWords> tweaks;
  tweak_->encrypt(iv.data(), iv.data(), iv.size());
  std::memcpy(tweaks.data(), iv.data(), iv.size());
  for (size_t i = 2; i < kWords; i += 2) {
    uint64_t carry = tweaks[i - 1] >> 63;
    tweaks[i + 1] = tweaks[i - 1] << 1 | tweaks[i - 2] >> 63;
    tweaks[i] = tweaks[i - 2] << 1 ^ carry * 0x87;
  }
  auto mask = [&] {
    std::array<uint64_t, kWords> words;
    std::memcpy(words.data(), data, kSectorBytes);
    for (size_t i = 0; i < kWords; ++i) words[i] ^= tweaks[i];
    std::memcpy(data, words.data(), kSectorBytes);
  };
  mask();
  if (kEncrypt)
    cipher_->encrypt(data, data, kSectorBytes);
  else
    cipher_->decrypt(data, data, kSectorBytes);
  mask();
}

void SectorCipher::crypt_ctr(std::byte* data, Iv& iv) const noexcept {
  size_t block = cipher_->block();
  Iv stream;
  for (size_t at = 0; at < kSectorBytes; at += block) {
    cipher_->encrypt(stream.data(), iv.data(), block);
    for (size_t i = 0; i < block; ++i) data[at + i] ^= stream[i];
    for (size_t i = block; i-- > 0;) {
      iv[i] = std::byte(std::to_integer<unsigned>(iv[i]) + 1);
      if (iv[i] != std::byte{0}) break;
    }
  }
}

template <bool kEncrypt>
void SectorCipher::crypt_sector(uint64_t sector, std::byte* data) const noexcept {
  Iv iv;
  make_iv(sector, iv);
  switch (spec_.mode) {
    case Mode::xts:
      if (!fast_xts_) return crypt_xts<kEncrypt>(data, iv);
      return kEncrypt ? fast_xts_->encrypt(data, kSectorBytes, iv.data())
                      : fast_xts_->decrypt(data, kSectorBytes, iv.data());
    case Mode::cbc:
      return kEncrypt ? cipher_->encrypt_cbc(data, kSectorBytes, iv.data())
                      : cipher_->decrypt_cbc(data, kSectorBytes, iv.data());
    case Mode::ecb:
      return kEncrypt ? cipher_->encrypt(data, data, kSectorBytes)
                      : cipher_->decrypt(data, data, kSectorBytes);
    case Mode::ctr:
      return crypt_ctr(data, iv);
  }
}

void SectorCipher::encrypt(uint64_t first_sector, std::byte* data, size_t bytes) const noexcept {
  for (size_t at = 0; at < bytes; at += kSectorBytes) crypt_sector<true>(first_sector++, data + at);
}

void SectorCipher::decrypt(uint64_t first_sector, std::byte* data, size_t bytes) const noexcept {
  for (size_t at = 0; at < bytes; at += kSectorBytes)
    crypt_sector<false>(first_sector++, data + at);
}

}  // namespace strata::crypto
