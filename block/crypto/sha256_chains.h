// SPDX-License-Identifier: GPL-2.0-or-later
//
// The inner loop of PBKDF2 with HMAC-SHA256, by the processor's instructions for SHA: two chains
// side by side, since an instruction takes longer than until the next one may start. Some two
// times as fast as a library whose every message begins with copying a context.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "block/base/bytes.h"

namespace strata::crypto {

// Eight words of SHA-256: a state, or a digest.
using Sha256Words = std::array<uint32_t, 8>;

// What HMAC goes on from once its key has been hashed in. Wiped when it goes.
struct HmacSha256Key {
  // No longer than a block of SHA-256, or it is to be hashed before.
  explicit HmacSha256Key(ConstBytes key) noexcept;
  ~HmacSha256Key();
  HmacSha256Key(const HmacSha256Key&) = delete;
  HmacSha256Key& operator=(const HmacSha256Key&) = delete;

  Sha256Words inner;
  Sha256Words outer;
};

// One block of output on its way.
struct Sha256Chain {
  Sha256Words digest;  // of the last iteration
  Sha256Words sum;     // of all of them
};

// Whether this processor can; nothing else of this file is called where it cannot.
bool can_chain_sha256() noexcept;

// So many iterations further. `chains`: one or two.
void advance(const HmacSha256Key& key, std::span<Sha256Chain> chains, uint64_t iterations) noexcept;

}  // namespace strata::crypto
