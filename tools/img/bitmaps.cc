// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/bitmaps.h"

#include "block/base/error.h"
#include "block/base/log.h"
#include "block/graph/bitmaps.h"

namespace strata::tools {

void check_bitmaps(const Node& from, bool skip_broken) {
  const auto& all = from.bitmaps().all();
  for (auto bitmap = all.rbegin(); bitmap != all.rend(); ++bitmap) {
    if (!(*bitmap)->is_persistent() || !(*bitmap)->is_inconsistent() || skip_broken) continue;
    throw Error("Cannot copy inconsistent bitmap '{}'", (*bitmap)->name())
        .hint("Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it\n");
  }
}

namespace {

Task<void> copy_bitmap(MainLoop& loop, DirtyBitmapPtr bitmap, Node& to) {
  std::string name = bitmap->name();
  std::string_view step = "create";
  std::optional<Error> failed;
  bool added = false;
  try {
    NewBitmap copy{name, bitmap->granularity(), true, !bitmap->is_enabled()};
    co_await add_bitmap(loop, to, std::move(copy));
    added = true;
    step = "populate";
    co_await merge_bitmaps(loop, to, name, {bitmap});
  } catch (Error& error) {
    failed = std::move(error).prepend(fmt::format("Failed to {} bitmap {}: ", step, name));
  }
  if (failed && added) co_await remove_bitmap(loop, to, name);
  if (failed) throw *failed;
}

}  // namespace

Task<void> copy_bitmaps(MainLoop& loop, Node& from, Node& to) {
  std::vector<DirtyBitmapPtr> all(from.bitmaps().all().rbegin(), from.bitmaps().all().rend());
  for (const DirtyBitmapPtr& bitmap : all) {
    if (!bitmap->is_persistent()) continue;
    if (bitmap->is_inconsistent()) {
      log_warning("Skipping inconsistent bitmap '{}'", bitmap->name());
      continue;
    }
    co_await copy_bitmap(loop, bitmap, to);
  }
}

}  // namespace strata::tools
