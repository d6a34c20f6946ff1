// SPDX-License-Identifier: GPL-2.0-or-later
#include <boost/json/array.hpp>
#include <filesystem>
#include <set>

#include "block/names/backing.h"
#include "qapi/runtime/json_writer.h"
#include "qapi/visit_block_info.h"
#include "tools/common/image_info.h"
#include "tools/img/command.h"

namespace strata::tools {
namespace {

constexpr option kOptions[]{{"help", no_argument, nullptr, 'h'},
                            {"format", required_argument, nullptr, 'f'},
                            {"output", required_argument, nullptr, kOutput},
                            {"cache", required_argument, nullptr, 't'},
                            {"limits", no_argument, nullptr, kLimits},
                            {"backing-chain", no_argument, nullptr, kBackingChain},
                            {"object", required_argument, nullptr, kObject},
                            {"image-opts", no_argument, nullptr, kImageOpts},
                            {"force-share", no_argument, nullptr, 'U'},
                            {nullptr, 0, nullptr, 0}};

struct Request {
  std::optional<std::string> format;
  OutputFormat output = OutputFormat::human;
  OpenFlags flags{.metadata_only = true};
  bool whole_chain = false;
  bool image_options = false;
  bool limits = false;
};

Request parse(Words& words) {
  Request request;
  for (int option; (option = words.next("hf:t:U", kOptions)) != -1;) {
    switch (option) {
      case 'f':
        request.format = words.value();
        break;
      case 't':
        if (!set_cache_mode(request.flags, words.value()))
          throw Error("Invalid cache option: {}", words.value());
        break;
      case 'U':
        request.flags.force_share = true;
        break;
      case kOutput:
        request.output = parse_output_format(words.value());
        break;
      case kBackingChain:
        request.whole_chain = true;
        break;
      case kImageOpts:
        request.image_options = true;
        break;
      case kLimits:
        request.limits = true;
        break;
      default:
        break;
    }
  }
  request.flags.no_backing = true;
  return request;
}

void print(const std::vector<qapi::BlockGraphInfo>& chain, const Request& request) {
  if (request.output == OutputFormat::human) {
    for (size_t i = 0; i < chain.size(); ++i)
      fmt::print("{}{}", i == 0 ? "" : "\n", image_info_text(chain[i]));
    return;
  }
  boost::json::array all;
  for (const qapi::BlockGraphInfo& info : chain) all.push_back(qapi::to_json(info));
  const boost::json::value& shown = request.whole_chain ? boost::json::value(all) : all[0];
  fmt::print("{}\n", qapi::write_json(shown, qapi::JsonStyle::pretty));
}

// One image at a time, each under the name that the one before has for it.
Task<std::vector<qapi::BlockGraphInfo>> look_at_chain(Images& images, Request request,
                                                      std::string name) {
  std::vector<qapi::BlockGraphInfo> chain;
  std::set<std::string> seen;
  for (;;) {
    std::error_code unknown;
    std::filesystem::path path = std::filesystem::canonical(name, unknown);
    if (!seen.insert(unknown ? name : path.string()).second)
      throw Error("Backing file '{}' creates an infinite loop.", name);
    if (seen.size() > kMaxBackingDepth)
      throw Error("There are more than {} backing files, one behind the other", kMaxBackingDepth);
    Backend* image =
        co_await images.open(name, request.format, request.image_options, request.flags);
    chain.push_back(describe_node_tree(image->node(), request.limits));
    (void)co_await images.close_all();
    const qapi::BlockGraphInfo& info = chain.back();
    if (!request.whole_chain || !info.backing_filename) break;
    name = info.full_backing_filename.value_or(*info.backing_filename);
    request.format = info.backing_filename_format;
    request.image_options = false;
    request.flags.recorded_name = true;
  }
  co_return chain;
}

}  // namespace

Task<int> run_info(Images& images, Words& words) {
  Request request = parse(words);
  std::vector<std::string> rest = words.rest();
  if (rest.size() != 1) throw UsageError{"Expecting one image file name"};
  print(co_await look_at_chain(images, request, rest[0]), request);
  co_return 0;
}

}  // namespace strata::tools
