// SPDX-License-Identifier: GPL-2.0-or-later
//
// Options behind -o that are about encryption. `prefix`: what their names begin with, "" where the
// image is LUKS itself, "encrypt." where LUKS is inside of it.
#pragma once

#include "qapi/types_crypto.h"
#include "tools/img/create_options.h"

namespace strata::tools {

// Moves those that begin with `prefix` out of `values`. Throws Error.
qapi::QCryptoBlockAmendOptionsLUKS take_amend_options(CreateValues& values,
                                                      std::string_view prefix);

// What the header of a volume made with these options takes before its data, in bytes. Throws
// Error.
uint64_t luks_header_bytes(const BlockLayer& layer, const CreateValues& values,
                           std::string_view prefix);

}  // namespace strata::tools
