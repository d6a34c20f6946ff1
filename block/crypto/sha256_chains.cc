// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/crypto/sha256_chains.h"

#include <string.h>

#include <algorithm>

#ifdef __x86_64__
#include <immintrin.h>
#define STRATA_SHA __attribute__((target("sha,sse4.1")))
#endif

namespace strata::crypto {

#ifdef __x86_64__

namespace {

// FIPS 180-4, 4.2.2 and 5.3.3.
alignas(16) constexpr std::array<uint32_t, 64> kRoundConstants{
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
constexpr Sha256Words kInitialState{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

// The state as the instructions want it: words a, b, e, f, and c, d, g, h, the first one highest.
struct State {
  __m128i abef;
  __m128i cdgh;
};
using Block = std::array<__m128i, 4>;

STRATA_SHA __m128i load(const uint32_t* words) noexcept {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(words));
}
STRATA_SHA void store(uint32_t* words, __m128i value) noexcept {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(words), value);
}
STRATA_SHA State to_state(__m128i abcd, __m128i efgh) noexcept {
  __m128i ab_ef = _mm_unpacklo_epi64(abcd, efgh);
  __m128i cd_gh = _mm_unpackhi_epi64(abcd, efgh);
  return {_mm_shuffle_epi32(ab_ef, 0x1b), _mm_shuffle_epi32(cd_gh, 0x1b)};
}
STRATA_SHA State load_state(const Sha256Words& words) noexcept {
  return to_state(load(words.data()), load(words.data() + 4));
}
// The words in their order: the first half of a block that is hashed next.
STRATA_SHA void unfold(const State& state, __m128i& abcd, __m128i& efgh) noexcept {
  __m128i ab_ef = _mm_shuffle_epi32(state.abef, 0x1b);
  __m128i cd_gh = _mm_shuffle_epi32(state.cdgh, 0x1b);
  abcd = _mm_unpacklo_epi64(ab_ef, cd_gh);
  efgh = _mm_unpackhi_epi64(ab_ef, cd_gh);
}

// Hashes a block into each state. FIPS 180-4, 6.2.2, four rounds at a time.
template <size_t N>
STRATA_SHA inline __attribute__((always_inline)) void compress(
    std::array<State, N>& states, std::array<Block, N>& blocks) noexcept {
  std::array<State, N> before = states;
#pragma clang loop unroll(full)
  for (size_t step = 0; step < 16; ++step) {
    __m128i constants = load(kRoundConstants.data() + step * 4);
#pragma clang loop unroll(full)
    for (size_t i = 0; i < N; ++i) {
      Block& words = blocks[i];
      __m128i& now = words[step % 4];
      __m128i sum = _mm_add_epi32(now, constants);
      State& state = states[i];
      state.cdgh = _mm_sha256rnds2_epu32(state.cdgh, state.abef, sum);
      state.abef = _mm_sha256rnds2_epu32(state.abef, state.cdgh, _mm_shuffle_epi32(sum, 0x0e));
      if (step >= 12) continue;
      __m128i last = words[(step + 3) % 4];
      __m128i some = _mm_sha256msg1_epu32(now, words[(step + 1) % 4]);
      some = _mm_add_epi32(some, _mm_alignr_epi8(last, words[(step + 2) % 4], 4));
      now = _mm_sha256msg2_epu32(some, last);
    }
  }
#pragma clang loop unroll(full)
  for (size_t i = 0; i < N; ++i) {
    states[i].abef = _mm_add_epi32(states[i].abef, before[i].abef);
    states[i].cdgh = _mm_add_epi32(states[i].cdgh, before[i].cdgh);
  }
}

// The digests of `states` as messages behind a block of the key.
template <size_t N>
STRATA_SHA inline __attribute__((always_inline)) void hash_digests(
    const State& start, std::array<State, N>& states) noexcept {
  std::array<Block, N> blocks;
#pragma clang loop unroll(full)
  for (size_t i = 0; i < N; ++i) {
    unfold(states[i], blocks[i][0], blocks[i][1]);
    blocks[i][2] = _mm_setr_epi32(INT32_MIN, 0, 0, 0);
    blocks[i][3] = _mm_setr_epi32(0, 0, 0, (64 + 32) * 8);
    states[i] = start;
  }
  compress<N>(states, blocks);
}

template <size_t N>
STRATA_SHA void advance_some(const HmacSha256Key& key, Sha256Chain* chains,
                             uint64_t iterations) noexcept {
  State inner = load_state(key.inner);
  State outer = load_state(key.outer);
  std::array<State, N> states;
  std::array<State, N> sums;
  for (size_t i = 0; i < N; ++i) {
    states[i] = load_state(chains[i].digest);
    sums[i] = load_state(chains[i].sum);
  }
  for (uint64_t turn = 0; turn < iterations; ++turn) {
    hash_digests<N>(inner, states);
    hash_digests<N>(outer, states);
    for (size_t i = 0; i < N; ++i) {
      sums[i].abef = _mm_xor_si128(sums[i].abef, states[i].abef);
      sums[i].cdgh = _mm_xor_si128(sums[i].cdgh, states[i].cdgh);
    }
  }
  for (size_t i = 0; i < N; ++i) {
    __m128i abcd, efgh;
    unfold(states[i], abcd, efgh);
    store(chains[i].digest.data(), abcd);
    store(chains[i].digest.data() + 4, efgh);
    unfold(sums[i], abcd, efgh);
    store(chains[i].sum.data(), abcd);
    store(chains[i].sum.data() + 4, efgh);
  }
}

STRATA_SHA Sha256Words hash_key(ConstBytes key, uint8_t pad) noexcept {
  std::array<std::byte, 64> bytes;
  bytes.fill(std::byte{pad});
  for (size_t i = 0; i < key.size(); ++i) bytes[i] ^= key[i];
  Sha256Words words;
  std::array<Block, 1> block;
  for (size_t i = 0; i < 4; ++i) {
    std::array<uint32_t, 4> four;
    for (size_t word = 0; word < 4; ++word)
      four[word] = load_be<uint32_t>(bytes, i * 16 + word * 4);
    block[0][i] = load(four.data());
  }
  std::array<State, 1> state{load_state(kInitialState)};
  compress<1>(state, block);
  __m128i abcd, efgh;
  unfold(state[0], abcd, efgh);
  store(words.data(), abcd);
  store(words.data() + 4, efgh);
  ::explicit_bzero(bytes.data(), bytes.size());
  ::explicit_bzero(&block, sizeof block);
  return words;
}

}  // namespace

bool can_chain_sha256() noexcept {
  return __builtin_cpu_supports("sha") && __builtin_cpu_supports("sse4.1");
}

HmacSha256Key::HmacSha256Key(ConstBytes key) noexcept
    : inner(hash_key(key, 0x36)), outer(hash_key(key, 0x5c)) {}

void advance(const HmacSha256Key& key, std::span<Sha256Chain> chains,
             uint64_t iterations) noexcept {
  if (chains.size() == 1) return advance_some<1>(key, chains.data(), iterations);
  advance_some<2>(key, chains.data(), iterations);
}

#else

bool can_chain_sha256() noexcept {
  return false;
}

HmacSha256Key::HmacSha256Key(ConstBytes) noexcept {}

void advance(const HmacSha256Key&, std::span<Sha256Chain>, uint64_t) noexcept {}

#endif

HmacSha256Key::~HmacSha256Key() {
  ::explicit_bzero(inner.data(), sizeof inner);
  ::explicit_bzero(outer.data(), sizeof outer);
}

}  // namespace strata::crypto
