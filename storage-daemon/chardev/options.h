// SPDX-License-Identifier: GPL-2.0-or-later
//
// The argument of --chardev, which has a language of its own:
//
//   socket,id=c0,path=/run/qmp.sock,server=on,wait=off
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "qapi/types_char.h"

namespace strata {

struct ChardevOption {
  std::string id;
  qapi::ChardevBackend backend;
  // Deprecated spellings met, to be shown as warnings.
  std::vector<std::string> warnings;
};

// What 'help' asks for.
enum class ChardevHelp { none, backends, options };
ChardevHelp chardev_help(std::string_view text);
std::string chardev_options_help();

// Throws Error.
ChardevOption parse_chardev_option(std::string_view text);

}  // namespace strata
