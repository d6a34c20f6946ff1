// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/crypto/amend.h"

#include "block/base/error.h"
#include "block/graph/node.h"

namespace strata::crypto {

Task<void> amend_encryption(MainLoop& loop, Node& node,
                            const qapi::QCryptoBlockAmendOptionsLUKS& options, bool force) {
  auto* owner = dynamic_cast<EncryptionOwner*>(&node.driver());
  if (owner == nullptr)
    throw Error("Format driver '{}' does not support option amendment", node.format_name());
  return owner->amend_encryption(loop, options, force);
}

}  // namespace strata::crypto
