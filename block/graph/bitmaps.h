// SPDX-License-Identifier: GPL-2.0-or-later
//
// What commands and tools do with the dirty bitmaps of nodes. Main loop; all throw Error, in the
// words of QMP's block-dirty-bitmap commands.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "block/graph/layer.h"
#include "qapi/types_block_bitmap.h"

namespace strata {

struct NewBitmap {
  std::string name;
  std::optional<uint64_t> granularity;  // bytes; without it the node's default
  bool persistent = false;
  bool disabled = false;
};

Task<DirtyBitmapPtr> add_bitmap(MainLoop& loop, Node& node, NewBitmap options);
// From the image, too, if it is persistent.
Task<void> remove_bitmap(MainLoop& loop, Node& node, std::string name);
Task<void> clear_bitmap(MainLoop& loop, Node& node, std::string name);
Task<void> enable_bitmap(MainLoop& loop, Node& node, std::string name, bool enabled);
// Sets in `target` what is dirty in the sources: all of it or, if that fails, nothing.
Task<void> merge_bitmaps(MainLoop& loop, Node& node, std::string target,
                         std::vector<DirtyBitmapPtr> sources);

DirtyBitmapPtr lookup_bitmap(const Node& node, const std::string& name);
// The first of that name in `top` and what lies behind it: filters' children and backing files.
struct FoundBitmap {
  Node* node = nullptr;
  DirtyBitmapPtr bitmap;
};
FoundBitmap find_bitmap_in_chain(Node& top, std::string_view name) noexcept;

// Bytes a bit, where nobody said otherwise: the cluster size within reason.
uint64_t default_bitmap_granularity(const Node& node);

// The latest first, as queries tell of them.
std::vector<qapi::BlockDirtyInfo> describe_bitmaps(const Node& node);

}  // namespace strata
