// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/graph/bitmaps.h"

#include <algorithm>

#include "block/base/error.h"

namespace strata {
namespace {

using Use = DirtyBitmap::Use;

// Lets the image have its say where it keeps the bitmap.
Task<void> change(Node& node, const DirtyBitmap& bitmap, std::function<void()> action) {
  if (bitmap.is_persistent()) co_return co_await node.driver().change_bitmaps(std::move(action));
  action();
}

}  // namespace

DirtyBitmapPtr lookup_bitmap(const Node& node, const std::string& name) {
  DirtyBitmapPtr bitmap = node.bitmaps().find(name);
  if (!bitmap) throw Error("Dirty bitmap '{}' not found", name);
  return bitmap;
}

FoundBitmap find_bitmap_in_chain(Node& top, std::string_view name) noexcept {
  for (Node* node = &top; node != nullptr;) {
    if (DirtyBitmapPtr bitmap = node->bitmaps().find(name)) return {node, std::move(bitmap)};
    Edge* next = node->child_in_role(ChildRole::cow);
    if (node->descriptor().is_filter) next = node->child_in_role(ChildRole::filtered);
    node = next != nullptr ? &next->node() : nullptr;
  }
  return {};
}

uint64_t default_bitmap_granularity(const Node& node) {
  std::optional<ImageFacts> facts = node.driver().image_facts();
  if (!facts || !facts->cluster_size) return 65536;
  return std::clamp<uint64_t>(*facts->cluster_size, 4096, 65536);
}

Task<DirtyBitmapPtr> add_bitmap(MainLoop&, Node& node, NewBitmap options) {
  if (options.name.empty()) throw Error("Bitmap name cannot be empty");
  uint64_t granularity = options.granularity.value_or(0);
  if (options.granularity) {
    if (granularity < DirtyBitmap::kLeastGranularity || !is_power_of_two(granularity))
      throw Error("Granularity must be power of 2 and at least 512");
  } else {
    granularity = default_bitmap_granularity(node);
  }
  if (options.persistent) node.driver().check_new_bitmap(options.name, granularity);
  if (node.bitmaps().find(options.name)) throw Error("Bitmap already exists: {}", options.name);
  if (options.name.size() > DirtyBitmap::kLongestName) throw Error("Bitmap name too long");
  auto bitmap = std::make_shared<DirtyBitmap>(options.name, node.length(), granularity);
  bitmap->set_enabled(!options.disabled);
  bitmap->set_persistent(options.persistent);
  bitmap->note_changed();
  std::exception_ptr error;
  try {
    co_await change(node, *bitmap, [&] { node.bitmaps().add(bitmap); });
  } catch (...) {
    error = std::current_exception();
  }
  if (error) {
    node.bitmaps().remove(*bitmap);
    std::rethrow_exception(error);
  }
  co_return bitmap;
}

Task<void> remove_bitmap(MainLoop&, Node& node, std::string name) {
  DirtyBitmapPtr bitmap = lookup_bitmap(node, name);
  bitmap->check(Use::remove);
  if (bitmap->is_persistent()) co_await node.driver().forget_bitmap(name);
  node.bitmaps().remove(*bitmap);
}

Task<void> clear_bitmap(MainLoop&, Node& node, std::string name) {
  DirtyBitmapPtr bitmap = lookup_bitmap(node, name);
  bitmap->check(Use::change);
  co_await change(node, *bitmap, [&] { bitmap->reset({0, bitmap->size()}); });
}

Task<void> enable_bitmap(MainLoop&, Node& node, std::string name, bool enabled) {
  DirtyBitmapPtr bitmap = lookup_bitmap(node, name);
  bitmap->check(Use::read);
  co_await change(node, *bitmap, [&] { bitmap->set_enabled(enabled); });
}

Task<void> merge_bitmaps(MainLoop&, Node& node, std::string target,
                         std::vector<DirtyBitmapPtr> sources) {
  DirtyBitmapPtr into = lookup_bitmap(node, target);
  for (const DirtyBitmapPtr& source : sources) {
    source->check(Use::read);
    into->check_mergeable(*source);
  }
  into->check(Use::change);
  co_await change(node, *into, [&] {
    for (const DirtyBitmapPtr& source : sources) {
      if (source != into) into->merge(*source);
    }
  });
}

std::vector<qapi::BlockDirtyInfo> describe_bitmaps(const Node& node) {
  std::vector<qapi::BlockDirtyInfo> all;
  for (const DirtyBitmapPtr& bitmap : node.bitmaps().all()) {
    qapi::BlockDirtyInfo info;
    if (!bitmap->name().empty()) info.name = bitmap->name();
    info.count = static_cast<int64_t>(bitmap->dirty_bytes());
    info.granularity = static_cast<uint32_t>(bitmap->granularity());
    info.recording = bitmap->is_enabled();
    info.busy = bitmap->is_busy();
    info.persistent = bitmap->is_persistent();
    if (bitmap->is_inconsistent()) info.inconsistent = true;
    all.push_back(std::move(info));
  }
  std::reverse(all.begin(), all.end());
  return all;
}

}  // namespace strata
