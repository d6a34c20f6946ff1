// SPDX-License-Identifier: GPL-2.0-or-later
//
// Dirty bitmaps of nodes.
#include "block/graph/bitmaps.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include <algorithm>
#include <bit>

#include "block/base/error.h"
#include "qapi/commands_block_bitmap.h"
#include "storage-daemon/commands/families.h"
#include "storage-daemon/daemon.h"

namespace strata {
namespace {

namespace cmd = qapi::cmd;

NodePtr find_node(CommandContext& context, const std::string& name) {
  NodePtr node = context.daemon.layer().find_node(name);
  if (!node || !node->is_open()) throw Error("Node '{}' not found", name);
  return node;
}

Task<void> add(CommandContext& context, qapi::BlockDirtyBitmapAdd arguments) {
  if (arguments.name.empty()) throw Error("Bitmap name cannot be empty");
  NodePtr node = context.daemon.layer().lookup_node(arguments.node);
  NewBitmap bitmap;
  bitmap.name = arguments.name;
  bitmap.granularity = arguments.granularity;
  bitmap.persistent = arguments.persistent.value_or(false);
  bitmap.disabled = arguments.disabled.value_or(false);
  co_await add_bitmap(context.loop, *node, std::move(bitmap));
}

Task<void> remove(CommandContext& context, qapi::BlockDirtyBitmap arguments) {
  NodePtr node = find_node(context, arguments.node);
  co_await remove_bitmap(context.loop, *node, arguments.name);
}

Task<void> clear(CommandContext& context, qapi::BlockDirtyBitmap arguments) {
  NodePtr node = find_node(context, arguments.node);
  co_await clear_bitmap(context.loop, *node, arguments.name);
}

Task<void> enable(CommandContext& context, qapi::BlockDirtyBitmap arguments) {
  NodePtr node = find_node(context, arguments.node);
  co_await enable_bitmap(context.loop, *node, arguments.name, true);
}

Task<void> disable(CommandContext& context, qapi::BlockDirtyBitmap arguments) {
  NodePtr node = find_node(context, arguments.node);
  co_await enable_bitmap(context.loop, *node, arguments.name, false);
}

Task<void> merge(CommandContext& context, qapi::BlockDirtyBitmapMerge arguments) {
  NodePtr node = find_node(context, arguments.node);
  lookup_bitmap(*node, arguments.target);
  std::vector<DirtyBitmapPtr> sources;
  for (const qapi::BlockDirtyBitmapOrStr& source : arguments.bitmaps) {
    if (const auto* name = std::get_if<std::string>(&source)) {
      sources.push_back(lookup_bitmap(*node, *name));
    } else {
      const auto& external = std::get<qapi::BlockDirtyBitmap>(source);
      sources.push_back(lookup_bitmap(*find_node(context, external.node), external.name));
    }
  }
  co_await merge_bitmaps(context.loop, *node, arguments.target, std::move(sources));
}

// Of the bits as 64-bit words, of which there is at least one.
std::string sha256(const DirtyBitmap& bitmap) {
  uint64_t words = std::max<uint64_t>(1, (bitmap.bit_count() + 63) / 64);
  gnutls_hash_hd_t hash;
  if (gnutls_hash_init(&hash, GNUTLS_DIG_SHA256) < 0) throw Error("Cannot compute a SHA-256 sum");
  for (uint64_t i = 0; i < words; ++i) {
    uint64_t word = i < bitmap.bits().words() ? bitmap.bits().word(i) : 0;
    if constexpr (std::endian::native == std::endian::big) word = __builtin_bswap64(word);
    gnutls_hash(hash, &word, sizeof word);
  }
  std::array<unsigned char, 32> digest;
  gnutls_hash_deinit(hash, digest.data());
  std::string text;
  for (unsigned char byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

qapi::BlockDirtyBitmapSha256 debug_sha256(CommandContext& context,
                                          qapi::BlockDirtyBitmap arguments) {
  NodePtr node = find_node(context, arguments.node);
  DirtyBitmapPtr bitmap = lookup_bitmap(*node, arguments.name);
  qapi::BlockDirtyBitmapSha256 result;
  result.sha256 = sha256(*bitmap);
  return result;
}

}  // namespace

void serve_bitmap_commands(CommandTable& table) {
  table.serve<cmd::BlockDirtyBitmapAdd>(&add);
  table.serve<cmd::BlockDirtyBitmapRemove>(&remove);
  table.serve<cmd::BlockDirtyBitmapClear>(&clear);
  table.serve<cmd::BlockDirtyBitmapEnable>(&enable);
  table.serve<cmd::BlockDirtyBitmapDisable>(&disable);
  table.serve<cmd::BlockDirtyBitmapMerge>(&merge);
  table.serve<cmd::XDebugBlockDirtyBitmapSha256>(&debug_sha256);
}

}  // namespace strata
