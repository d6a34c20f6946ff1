// SPDX-License-Identifier: GPL-2.0-or-later
//
// Changing the key slots of an open image: LUKS, or a format with LUKS inside.
#pragma once

#include "block/coro/task.h"
#include "qapi/types_crypto.h"

namespace strata {
class MainLoop;
class Node;
}  // namespace strata

namespace strata::crypto {

// What a driver is besides, if its images may be encrypted with LUKS.
class EncryptionOwner {
 public:
  virtual ~EncryptionOwner() = default;
  // The image may be written to. Throws Error.
  virtual Task<void> amend_encryption(MainLoop& loop,
                                      const qapi::QCryptoBlockAmendOptionsLUKS& options,
                                      bool force) = 0;
};

// Changes the key slots of `node`, which somebody has opened for writing and nobody else uses.
// Without `force` nothing is done that may lose data. Throws Error.
Task<void> amend_encryption(MainLoop& loop, Node& node,
                            const qapi::QCryptoBlockAmendOptionsLUKS& options, bool force);

}  // namespace strata::crypto
