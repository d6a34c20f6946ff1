// SPDX-License-Identifier: GPL-2.0-or-later
//
// Passwords and the master key of a LUKS volume. Pure but for the randomness; long computations,
// for a thread of their own.
#pragma once

#include "block/crypto/luks_header.h"

namespace strata::crypto {

inline constexpr int64_t kDefaultIterTime = 2000;  // milliseconds
// What is spent on trying all slots at most, whatever the image asks for.
inline constexpr std::chrono::seconds kDefaultUnlockTime(10);

enum class SlotAnswer { wrong, opened, out_of_budget };

// Whether `password` opens `slot`, whose key material is `material`; the key comes into `key`, of
// header.key_bytes. Changes `material`. Throws Error where the parameters do not go together.
SlotAnswer try_slot(const LuksHeader& header, const LuksParameters& parameters,
                    const LuksSlot& slot, Bytes material, ConstBytes password, Bytes key,
                    CpuBudget& budget);

// Puts `key` into `slot`, which becomes active: a new salt, so many iterations as `password` is to
// cost (milliseconds). Returns the key material. Throws Error.
std::vector<std::byte> fill_slot(const LuksHeader& header, const LuksParameters& parameters,
                                 LuksSlot& slot, ConstBytes key, ConstBytes password,
                                 int64_t iter_time);

// A new master key, and its digest and the volume's name in `header`.
SecretBytes make_master_key(LuksHeader& header, const LuksParameters& parameters,
                            int64_t iter_time);

}  // namespace strata::crypto
