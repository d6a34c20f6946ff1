// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/crypto/aes_xts.h"

#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include <algorithm>

namespace strata::crypto {

AesXts::~AesXts() {
  ::explicit_bzero(encrypting_.data(), encrypting_.size());
  ::explicit_bzero(decrypting_.data(), decrypting_.size());
  ::explicit_bzero(tweaking_.data(), tweaking_.size());
}

#ifdef __x86_64__
#define STRATA_AES __attribute__((target("aes,sse4.1")))

namespace {

// So many blocks are under way at once: the instruction takes a few cycles, and one may start each.
constexpr size_t kWidth = 8;

STRATA_AES __m128i load(const std::byte* at) noexcept {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}
STRATA_AES void store(std::byte* at, __m128i value) noexcept {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(at), value);
}

// SubWord of the key expansion. ShiftRows does nothing to a column in all four places.
STRATA_AES uint32_t substitute(uint32_t word) noexcept {
  __m128i column = _mm_set1_epi32(static_cast<int>(word));
  return static_cast<uint32_t>(
      _mm_cvtsi128_si32(_mm_aesenclast_si128(column, _mm_setzero_si128())));
}

// FIPS 197, 5.2, on little-endian words.
STRATA_AES void expand_key(ConstBytes key, std::byte* out, unsigned rounds) noexcept {
  size_t words = key.size() / 4;
  uint32_t schedule[60];
  ::memcpy(schedule, key.data(), key.size());
  uint32_t round_constant = 1;
  for (size_t i = words; i < 4 * (rounds + 1); ++i) {
    uint32_t word = schedule[i - 1];
    if (i % words == 0) {
      word = substitute(word >> 8 | word << 24) ^ round_constant;
      round_constant = round_constant << 1 ^ (round_constant & 0x80 ? 0x11b : 0);
    } else if (words > 6 && i % words == 4) {
      word = substitute(word);
    }
    schedule[i] = schedule[i - words] ^ word;
  }
  ::memcpy(out, schedule, size_t{16} * (rounds + 1));
  ::explicit_bzero(schedule, sizeof schedule);
}

STRATA_AES void invert_key(const std::byte* encrypting, std::byte* out, unsigned rounds) noexcept {
  store(out, load(encrypting + size_t{16} * rounds));
  for (unsigned i = 1; i < rounds; ++i)
    store(out + size_t{16} * i, _mm_aesimc_si128(load(encrypting + size_t{16} * (rounds - i))));
  store(out + size_t{16} * rounds, load(encrypting));
}

STRATA_AES __m128i encrypt_block(const std::byte* keys, unsigned rounds, __m128i block) noexcept {
  block = _mm_xor_si128(block, load(keys));
  for (unsigned i = 1; i < rounds; ++i)
    block = _mm_aesenc_si128(block, load(keys + size_t{16} * i));
  return _mm_aesenclast_si128(block, load(keys + size_t{16} * rounds));
}

// Multiplication by x in the field of XTS.
STRATA_AES __m128i next_tweak(__m128i tweak) noexcept {
  __m128i carries = _mm_srai_epi32(_mm_shuffle_epi32(tweak, 0x5f), 31);
  __m128i polynomial = _mm_and_si128(carries, _mm_set_epi32(0, 1, 0, 0x87));
  return _mm_xor_si128(_mm_add_epi64(tweak, tweak), polynomial);
}

template <bool kEncrypt, size_t kBlocks>
STRATA_AES __m128i crypt_blocks(const std::byte* keys, unsigned rounds, std::byte* data,
                                __m128i tweak) noexcept {
  __m128i block[kBlocks];
  __m128i tweaks[kBlocks];
  __m128i key = load(keys);
  for (size_t i = 0; i < kBlocks; ++i) {
    tweaks[i] = tweak;
    tweak = next_tweak(tweak);
    block[i] = _mm_xor_si128(_mm_xor_si128(load(data + 16 * i), tweaks[i]), key);
  }
  for (unsigned round = 1; round < rounds; ++round) {
    key = load(keys + size_t{16} * round);
    for (size_t i = 0; i < kBlocks; ++i)
      block[i] = kEncrypt ? _mm_aesenc_si128(block[i], key) : _mm_aesdec_si128(block[i], key);
  }
  key = load(keys + size_t{16} * rounds);
  for (size_t i = 0; i < kBlocks; ++i) {
    block[i] = kEncrypt ? _mm_aesenclast_si128(block[i], key) : _mm_aesdeclast_si128(block[i], key);
    store(data + 16 * i, _mm_xor_si128(block[i], tweaks[i]));
  }
  return tweak;
}

template <bool kEncrypt>
STRATA_AES void crypt(const std::byte* keys, const std::byte* tweak_keys, unsigned rounds,
                      std::byte* data, size_t bytes, const std::byte* iv) noexcept {
  __m128i tweak = encrypt_block(tweak_keys, rounds, load(iv));
  for (; bytes >= 16 * kWidth; bytes -= 16 * kWidth, data += 16 * kWidth)
    tweak = crypt_blocks<kEncrypt, kWidth>(keys, rounds, data, tweak);
  for (; bytes >= 16; bytes -= 16, data += 16)
    tweak = crypt_blocks<kEncrypt, 1>(keys, rounds, data, tweak);
}

}  // namespace

std::unique_ptr<const AesXts> AesXts::make(ConstBytes key) {
  if (!__builtin_cpu_supports("aes") || !__builtin_cpu_supports("sse4.1")) return nullptr;
  size_t half = key.size() / 2;
  std::unique_ptr<AesXts> made(new AesXts);
  made->rounds_ = static_cast<unsigned>(half / 4 + 6);
  expand_key(key.first(half), made->encrypting_.data(), made->rounds_);
  expand_key(key.subspan(half), made->tweaking_.data(), made->rounds_);
  invert_key(made->encrypting_.data(), made->decrypting_.data(), made->rounds_);
  return made;
}

void AesXts::encrypt(std::byte* data, size_t bytes, const std::byte* iv) const noexcept {
  crypt<true>(encrypting_.data(), tweaking_.data(), rounds_, data, bytes, iv);
}

void AesXts::decrypt(std::byte* data, size_t bytes, const std::byte* iv) const noexcept {
  crypt<false>(decrypting_.data(), tweaking_.data(), rounds_, data, bytes, iv);
}

#else

std::unique_ptr<const AesXts> AesXts::make(ConstBytes) {
  return nullptr;
}
void AesXts::encrypt(std::byte*, size_t, const std::byte*) const noexcept {}
void AesXts::decrypt(std::byte*, size_t, const std::byte*) const noexcept {}

#endif

}  // namespace strata::crypto
