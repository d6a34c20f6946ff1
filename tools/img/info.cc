// SPDX-License-Identifier: GPL-2.0-or-later
#include <boost/json/array.hpp>
#include <cstdio>
#include <filesystem>
#include <set>
#include <utility>

#include "block/names/backing.h"
#include "qapi/runtime/json_writer.h"
#include "qapi/visit_block_info.h"
#include "tools/common/image_info.h"
#include "tools/img/command.h"

namespace strata::tools {
namespace {

struct Request {
  ImageChoice image{.flags = {.no_backing = true, .metadata_only = true}};
  OutputFormat output = OutputFormat::human;
  bool whole_chain = false;
  bool limits = false;
};

// What an image tells may be long: each form of it goes before the next one is there.
void print_json(std::vector<qapi::BlockGraphInfo> chain, bool whole_chain) {
  boost::json::value shown;
  if (whole_chain) {
    boost::json::array& all = shown.emplace_array();
    for (qapi::BlockGraphInfo& info : chain) all.push_back(qapi::to_json(std::exchange(info, {})));
  } else {
    shown = qapi::to_json(std::exchange(chain[0], {}));
  }
  qapi::print_json(stdout, shown, qapi::JsonStyle::pretty);
}

void print(std::vector<qapi::BlockGraphInfo> chain, const Request& request) {
  if (request.output == OutputFormat::human) {
    for (size_t i = 0; i < chain.size(); ++i)
      fmt::print("{}{}", i == 0 ? "" : "\n", image_info_text(chain[i]));
    return;
  }
  print_json(std::move(chain), request.whole_chain);
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
    Backend* image = co_await images.open(name, request.image);
    chain.push_back(describe_node_tree(image->node(), request.limits));
    (void)co_await images.close_all();
    const qapi::BlockGraphInfo& info = chain.back();
    if (!request.whole_chain || !info.backing_filename) break;
    name = info.full_backing_filename.value_or(*info.backing_filename);
    request.image.format = info.backing_filename_format;
    request.image.by_options = false;
    request.image.flags.recorded_name = true;
  }
  co_return chain;
}

}  // namespace

Task<int> run_info(Images& images, Words& words) {
  Request request;
  std::string name = words.parse_for_image({
      {"--backing-chain", "tell of the images it is based on, too", set(request.whole_chain)},
      {"--limits", "tell what requests the image accepts", set(request.limits)},
      output_option(request.output),
      format_option(request.image),
      image_options_option(request.image),
      cache_option(request.image),
      force_share_option(request.image.flags),
  });
  print(co_await look_at_chain(images, request, name), request);
  co_return 0;
}

}  // namespace strata::tools
