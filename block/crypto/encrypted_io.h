// SPDX-License-Identifier: GPL-2.0-or-later
//
// Requests to a node whose data is encrypted. As in block/io/request.h; offsets and lengths are
// multiples of kSectorBytes. `number_at` is the offset, in bytes, that sector numbers count from
// zero to: `at` itself, or where the guest sees the data.
#pragma once

#include "block/crypto/sector_cipher.h"
#include "block/io/request.h"

namespace strata::crypto {

// What is under way may be seen in `into` encrypted.
Task<Status> read_encrypted(const SectorCipher& cipher, Edge& child, uint64_t at,
                            uint64_t number_at, IoVector into);
// `from` is not changed.
Task<Status> write_encrypted(const SectorCipher& cipher, Edge& child, uint64_t at,
                             uint64_t number_at, IoVector from, WriteFlags flags = {});

}  // namespace strata::crypto
