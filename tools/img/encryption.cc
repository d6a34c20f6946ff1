// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/encryption.h"

#include <boost/json/object.hpp>

#include "block/crypto/luks_driver.h"
#include "block/crypto/luks_volume.h"
#include "qapi/visit_crypto.h"

namespace strata::tools {
namespace {

boost::json::object tree_of(const CreateValues& values, std::string_view prefix,
                            std::span<const CreateOption> table) {
  boost::json::object tree;
  for (const CreateOption& option : table) {
    std::string name = std::string(prefix) + option.name;
    if (auto value = values.find(name); value != values.end()) tree[option.name] = value->second;
  }
  return tree;
}

}  // namespace

qapi::QCryptoBlockAmendOptionsLUKS take_amend_options(CreateValues& values,
                                                      std::string_view prefix) {
  std::span<const CreateOption> table = amend_table("luks");
  boost::json::object tree = tree_of(values, prefix, table);
  for (const CreateOption& option : table) values.erase(std::string(prefix) + option.name);
  return qapi::from_keyval<qapi::QCryptoBlockAmendOptionsLUKS>(tree);
}

uint64_t luks_header_bytes(const BlockLayer& layer, const CreateValues& values,
                           std::string_view prefix) {
  boost::json::object tree = tree_of(values, prefix, create_table("luks"));
  tree.erase("size");
  tree.erase("detached-header");
  auto options = qapi::from_keyval<qapi::QCryptoBlockCreateOptionsLUKS>(tree);
  (void)crypto::find_password(layer, options.key_secret, prefix);
  return crypto::luks_payload_offset(options);
}

}  // namespace strata::tools
