// SPDX-License-Identifier: GPL-2.0-or-later
//
// strata-img bitmap: changes persistent bitmaps of an image.
#include "block/base/error.h"
#include "block/graph/bitmaps.h"
#include "tools/img/command.h"

namespace strata::tools {
namespace {

enum BitmapOption { kAdd = 512, kRemove, kClear, kEnable, kDisable, kMerge };

constexpr option kOptions[]{{"help", no_argument, nullptr, 'h'},
                            {"object", required_argument, nullptr, kObject},
                            {"image-opts", no_argument, nullptr, kImageOpts},
                            {"format", required_argument, nullptr, 'f'},
                            {"add", no_argument, nullptr, kAdd},
                            {"granularity", required_argument, nullptr, 'g'},
                            {"remove", no_argument, nullptr, kRemove},
                            {"clear", no_argument, nullptr, kClear},
                            {"enable", no_argument, nullptr, kEnable},
                            {"disable", no_argument, nullptr, kDisable},
                            {"merge", required_argument, nullptr, kMerge},
                            {"source-file", required_argument, nullptr, 'b'},
                            {"source-format", required_argument, nullptr, 'F'},
                            {nullptr, 0, nullptr, 0}};

struct Action {
  int what;
  std::string source;  // of a merge
};

struct Request {
  std::vector<Action> actions;
  std::optional<std::string> format;
  std::optional<std::string> source_file;
  std::optional<std::string> source_format;
  std::optional<uint64_t> granularity;
  bool image_options = false;
  bool help = false;

  bool has(int what) const {
    for (const Action& action : actions) {
      if (action.what == what) return true;
    }
    return false;
  }
};

Request parse(Words& words) {
  Request request;
  for (int option; (option = words.next("b:f:F:g:h", kOptions)) != -1;) {
    switch (option) {
      case 'h':
        request.help = true;
        break;
      case 'b':
        request.source_file = words.value();
        break;
      case 'f':
        request.format = words.value();
        break;
      case 'F':
        request.source_format = words.value();
        break;
      case 'g':
        request.granularity = static_cast<uint64_t>(parse_number(words.value(), "granularity", 1));
        break;
      case kImageOpts:
        request.image_options = true;
        break;
      case kMerge:
        request.actions.push_back({kMerge, words.value()});
        break;
      default:
        request.actions.push_back({option, ""});
        break;
    }
  }
  return request;
}

void check(const Request& request, size_t words) {
  if (request.actions.empty())
    throw Error("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
  if (request.granularity && !request.has(kAdd))
    throw Error("granularity only supported with --add");
  if (request.source_format && !request.source_file) throw Error("-F only supported with -b");
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
      lookup_bitmap(node, name);
      std::vector<DirtyBitmapPtr> sources{lookup_bitmap(source, action.source)};
      co_await merge_bitmaps(loop, node, name, std::move(sources));
    }
  }
}

}  // namespace

Task<int> run_bitmap(Images& images, Words& words) {
  Request request = parse(words);
  if (request.help) {
    print_help(images.tool().layer());
    co_return 0;
  }
  std::vector<std::string> rest = words.rest();
  check(request, rest.size());
  // Bitmaps are of one image alone. The one of which bitmaps come may stand on the one that gets
  // them.
  OpenFlags flags{.writable = true, .no_backing = true};
  Backend* image = co_await images.open(rest[0], request.format, request.image_options, flags);
  Backend* source = image;
  if (request.source_file)
    source = co_await images.open(*request.source_file, request.source_format, false,
                                  {.no_backing = true});
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
