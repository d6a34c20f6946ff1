// SPDX-License-Identifier: GPL-2.0-or-later
//
// strata-img bitmap: changes persistent bitmaps of an image.
#include "block/base/error.h"
#include "block/graph/bitmaps.h"
#include "tools/img/command.h"

namespace strata::tools {
namespace {

enum BitmapOption { kAdd = 512, kRemove, kClear, kEnable, kDisable, kMerge };

struct Action {
  int what;
  std::string source;  // of a merge
};

struct Request {
  std::vector<Action> actions;
  // Bitmaps are of one image alone. The one of which bitmaps come may stand on the one that gets
  // them.
  ImageChoice image{.flags = {.writable = true, .no_backing = true}};
  std::optional<std::string> source_file;
  ImageChoice source{.flags = {.no_backing = true}};
  std::optional<uint64_t> granularity;

  bool has(int what) const {
    for (const Action& action : actions) {
      if (action.what == what) return true;
    }
    return false;
  }
};

std::vector<std::string> parse(Words& words, Request& request) {
  auto action = [&request](int what) -> Take {
    return [&request, what](const std::string& of) { request.actions.push_back({what, of}); };
  };
  return words.parse({
      {"--add", "make the bitmap; it records writes from now on", action(kAdd)},
      {"-g, --granularity BYTES", "with --add: how finely it records",
       size_into(request.granularity, "granularity", 1)},
      {"--remove", "remove the bitmap", action(kRemove)},
      {"--clear", "forget what it has recorded", action(kClear)},
      {"--enable", "let it record writes", action(kEnable)},
      {"--disable", "let it record no more writes", action(kDisable)},
      {"--merge SOURCE", "add what the bitmap SOURCE has recorded", action(kMerge)},
      {"-b, --source-file FILE", "with --merge: the image that has SOURCE",
       into(request.source_file)},
      {"-F, --source-format FMT", "format of that image", into(request.source.format)},
      format_option(request.image),
      image_options_option(request.image),
  });
}

void check(const Request& request, size_t words) {
  if (request.actions.empty())
    throw Error("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
  if (request.granularity && !request.has(kAdd))
    throw Error("granularity only supported with --add");
  if (request.source.format && !request.source_file) throw Error("-F only supported with -b");
  if (request.source_file && !request.has(kMerge))
    throw Error("Merge bitmap source file only supported with --merge");
  if (words != 2) throw UsageError{"Expecting filename and bitmap name"};
}

const char* name_of(int what) {
  switch (what) {
    case kAdd:
      return "add";
    case kRemove:
      return "remove";
    case kClear:
      return "clear";
    case kEnable:
      return "enable";
    case kDisable:
      return "disable";
    default:
      return "merge";
  }
}

// What little room coarse bits take in an image, they may take very much in finer ones; but only
// where there is more of them than data.
void check_fits(const DirtyBitmap& from, const DirtyBitmap& to, const Node& image) {
  constexpr uint64_t kAlways = 16 << 20;
  const Edge* file = image.child_in_role(ChildRole::primary);
  uint64_t most = kAlways + (file != nullptr ? file->node().length() : 0);
  if (from.dirty_bytes() / to.granularity() / 8 > most)
    throw Error("Bitmap '{}' has too much recorded for a granularity of {} bytes", from.name(),
                to.granularity());
}

Task<void> act(MainLoop& loop, const Request& request, const Action& action, Node& node,
               Node& source, std::string name) {
  switch (action.what) {
    case kAdd:
      co_await add_bitmap(loop, node, {name, request.granularity, true, false});
      break;
    case kRemove:
      co_await remove_bitmap(loop, node, name);
      break;
    case kClear:
      co_await clear_bitmap(loop, node, name);
      break;
    case kEnable:
    case kDisable:
      co_await enable_bitmap(loop, node, name, action.what == kEnable);
      break;
    default: {
      DirtyBitmapPtr target = lookup_bitmap(node, name);
      std::vector<DirtyBitmapPtr> sources{lookup_bitmap(source, action.source)};
      check_fits(*sources[0], *target, node);
      co_await merge_bitmaps(loop, node, name, std::move(sources));
    }
  }
}

}  // namespace

Task<int> run_bitmap(Images& images, Words& words) {
  Request request;
  std::vector<std::string> rest = parse(words, request);
  check(request, rest.size());
  Backend* image = co_await images.open(rest[0], request.image);
  Backend* source = image;
  if (request.source_file) source = co_await images.open(*request.source_file, request.source);
  std::optional<Error> failed;
  const Action* now = nullptr;
  try {
    for (const Action& action : request.actions) {
      now = &action;
      co_await act(images.tool().loop(), request, action, image->node(), source->node(), rest[1]);
    }
  } catch (Error& error) {
    failed = std::move(error).prepend(
        fmt::format("Operation {} on bitmap {} failed: ", name_of(now->what), rest[1]));
  }
  if (failed) throw *failed;
  co_return 0;
}

}  // namespace strata::tools
