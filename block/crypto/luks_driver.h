// SPDX-License-Identifier: GPL-2.0-or-later
//
// The driver luks: a LUKS volume, whose header may be detached.
#pragma once

#include "block/graph/driver.h"

namespace strata {

extern const DriverDescriptor kLuksDriver;

namespace crypto {

// The bytes that come before the data of a volume made with these options. Throws Error for
// options that do not go together.
uint64_t luks_payload_offset(const qapi::QCryptoBlockCreateOptionsLUKS& options);

}  // namespace crypto
}  // namespace strata
