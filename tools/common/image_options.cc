// SPDX-License-Identifier: GPL-2.0-or-later
#include <fmt/format.h>

#include "block/base/log.h"
#include "block/names/options.h"
#include "tools/common/image.h"

namespace strata::tools {

boost::json::object parse_image_options(std::string_view text, std::string_view implied_key) {
  boost::json::object options;
  bool is_first = true;
  while (!text.empty()) {
    std::string item;
    size_t at = 0;
    for (; at < text.size(); ++at) {
      if (text[at] == ',') {
        if (at + 1 == text.size() || text[at + 1] != ',') break;
        ++at;
      }
      item += text[at];
    }
    text.remove_prefix(std::min(at + 1, text.size()));
    size_t equals = item.find('=');
    bool implied = is_first && !implied_key.empty() && equals == item.npos;
    is_first = false;
    if (equals != item.npos || implied) {
      set_option(options, implied ? implied_key : std::string_view(item).substr(0, equals),
                 item.substr(implied ? 0 : equals + 1));
      continue;
    }
    bool off = item.starts_with("no") && item.size() > 2;
    std::string name = off ? item.substr(2) : item;
    log_warning("short-form boolean option '{}{}' deprecated", off ? "no" : "", name);
    fmt::print(stderr, "Please use {}={} instead\n", name, off ? "off" : "on");
    set_option(options, name, off ? "off" : "on");
  }
  return options;
}

}  // namespace strata::tools
