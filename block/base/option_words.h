// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace strata {

// One of the words that --chardev and --trace are made of.
struct OptionWord {
  std::string key;
  std::string value;
  bool short_form = false;  // KEY or noKEY instead of KEY=on or KEY=off
};

// Splits KEY=VALUE,...; doubled commas in a value stand for one. A first word without '=' is the
// value of `implied_key`.
std::vector<OptionWord> split_option(std::string_view text, std::string_view implied_key);

}  // namespace strata
