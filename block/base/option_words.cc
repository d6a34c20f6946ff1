// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/base/option_words.h"

namespace strata {
namespace {

// Takes text up to a single comma, which goes too.
std::string take_value(std::string_view& text) {
  std::string value;
  while (!text.empty()) {
    char c = text.front();
    text.remove_prefix(1);
    if (c == ',') {
      if (text.empty() || text.front() != ',') break;
      text.remove_prefix(1);
    }
    value += c;
  }
  return value;
}

}  // namespace

std::vector<OptionWord> split_option(std::string_view text, std::string_view implied_key) {
  std::vector<OptionWord> words;
  while (!text.empty()) {
    OptionWord word;
    size_t end = text.find_first_of("=,");
    if (end != std::string_view::npos && text[end] == '=') {
      word.key = text.substr(0, end);
      text.remove_prefix(end + 1);
      word.value = take_value(text);
    } else if (words.empty()) {
      word.key = implied_key;
      word.value = take_value(text);
    } else {
      word.key = take_value(text);
      word.short_form = true;
      word.value = "on";
      if (word.key.starts_with("no") && word.key != "nodelay") {
        word.key.erase(0, 2);
        word.value = "off";
      }
    }
    words.push_back(std::move(word));
  }
  return words;
}

}  // namespace strata
