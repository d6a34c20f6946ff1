// SPDX-License-Identifier: GPL-2.0-or-later
#include <boost/json/array.hpp>

#include "qapi/runtime/json_writer.h"
#include "qapi/visit_block_info.h"
#include "tools/common/image_info.h"
#include "tools/img/command.h"

namespace strata::tools {
namespace {

constexpr option kOptions[]{{"help", no_argument, nullptr, 'h'},
                            {"format", required_argument, nullptr, 'f'},
                            {"output", required_argument, nullptr, kOutput},
                            {"backing-chain", no_argument, nullptr, kBackingChain},
                            {"object", required_argument, nullptr, kObject},
                            {"image-opts", no_argument, nullptr, kImageOpts},
                            {"force-share", no_argument, nullptr, 'U'},
                            {nullptr, 0, nullptr, 0}};

void print(const std::vector<qapi::BlockGraphInfo>& chain, OutputFormat output, bool as_list) {
  if (output == OutputFormat::human) {
    for (size_t i = 0; i < chain.size(); ++i)
      fmt::print("{}{}", i == 0 ? "" : "\n", image_info_text(chain[i]));
    return;
  }
  boost::json::array all;
  for (const qapi::BlockGraphInfo& info : chain) all.push_back(qapi::to_json(info));
  const boost::json::value& shown = as_list ? boost::json::value(all) : all[0];
  fmt::print("{}\n", qapi::write_json(shown, qapi::JsonStyle::pretty));
}

}  // namespace

Task<int> run_info(Images& images, Words& words) {
  std::optional<std::string> format;
  OutputFormat output = OutputFormat::human;
  bool whole_chain = false;
  bool image_options = false;
  OpenFlags flags;
  for (int option; (option = words.next("hf:U", kOptions)) != -1;) {
    switch (option) {
      case 'h':
        print_help(images.tool().layer());
        co_return 0;
      case 'f':
        format = words.value();
        break;
      case 'U':
        flags.force_share = true;
        break;
      case kOutput:
        output = parse_output_format(words.value());
        break;
      case kBackingChain:
        whole_chain = true;
        break;
      case kImageOpts:
        image_options = true;
        break;
      default:
        break;
    }
  }
  std::vector<std::string> rest = words.rest();
  if (rest.size() != 1) throw UsageError{"Expecting one image file name"};
  flags.no_backing = !whole_chain;
  flags.no_io = true;
  Backend* image = co_await images.open(rest[0], format, image_options, flags);
  std::vector<qapi::BlockGraphInfo> chain;
  for (const Node* node = &image->node(); node != nullptr; node = node->backing()) {
    chain.push_back(describe_node_tree(*node));
    if (!whole_chain) break;
  }
  print(chain, output, whole_chain);
  co_return 0;
}

}  // namespace strata::tools
