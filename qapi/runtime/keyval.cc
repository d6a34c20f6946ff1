// SPDX-License-Identifier: GPL-2.0-or-later
#include "qapi/runtime/keyval.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/value.hpp>
#include <string>
#include <utility>
#include <vector>

#include "block/base/error.h"
#include "qapi/runtime/json_parser.h"

namespace strata::qapi {

namespace json = boost::json;

namespace {

constexpr std::size_t kMaxFragment = 127;
// No option nests anywhere near as deep; what walks the result does so recursively.
constexpr std::size_t kMaxDepth = 256;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool is_index(std::string_view fragment) {
  return !fragment.empty() && std::all_of(fragment.begin(), fragment.end(), is_digit);
}

std::size_t span_of(std::string_view text, bool (*accept)(char)) {
  return static_cast<std::size_t>(std::find_if_not(text.begin(), text.end(), accept) -
                                  text.begin());
}

// The length of the schema name at the front of `text`; 0 if there is none. A downstream prefix,
// __RFQDN_, may contain dots.
std::size_t name_length(std::string_view text) {
  std::size_t prefix = 0;
  if (text.substr(0, 2) == "__") {
    prefix = 2 + span_of(text.substr(2), [](char c) {
               return is_letter(c) || is_digit(c) || c == '-' || c == '.';
             });
    if (prefix >= text.size() || text[prefix] != '_') return 0;
    ++prefix;
  }
  const std::string_view stem = text.substr(prefix);
  if (stem.empty() || !is_letter(stem.front())) return 0;
  return prefix +
         span_of(stem, [](char c) { return is_letter(c) || is_digit(c) || c == '-' || c == '_'; });
}

std::vector<std::string_view> split_key(std::string_view key) {
  std::vector<std::string_view> fragments;
  std::string_view rest = key;
  while (true) {
    std::size_t length = fragments.empty() ? 0 : span_of(rest, is_digit);
    if (length == 0) length = name_length(rest);
    if (length == 0 || (length < rest.size() && rest[length] != '.')) {
      throw Error("Invalid parameter '{}'", key);
    }
    if (length > kMaxFragment) {
      throw Error("Parameter{} '{}' is too long", length == key.size() ? "" : " fragment",
                  rest.substr(0, length));
    }
    fragments.push_back(rest.substr(0, length));
    if (fragments.size() > kMaxDepth) throw Error("Parameter '{}' is nested too deeply", key);
    if (length == rest.size()) return fragments;
    rest.remove_prefix(length + 1);
  }
}

void put(json::object& root, std::string_view key, std::string value) {
  const auto inconsistent = [key](std::string_view fragment) {
    const auto length = static_cast<std::size_t>(fragment.data() + fragment.size() - key.data());
    return Error("Parameters '{}.*' used inconsistently", key.substr(0, length));
  };
  json::object* level = &root;
  const auto fragments = split_key(key);
  for (std::size_t i = 0; i + 1 < fragments.size(); ++i) {
    auto& child = (*level)[fragments[i]];
    if (child.is_null()) child = json::object();
    if (!child.is_object()) throw inconsistent(fragments[i]);
    level = &child.get_object();
  }
  auto& leaf = (*level)[fragments.back()];
  if (leaf.is_object()) throw inconsistent(fragments.back());
  leaf = json::value(value);
}

// The value at the front of `text` up to a single comma; doubled ones become one.
std::string take_value(std::string_view& text) {
  std::string value;
  while (!text.empty()) {
    const char c = text.front();
    text.remove_prefix(1);
    if (c == ',') {
      if (text.empty() || text.front() != ',') break;
      text.remove_prefix(1);
    }
    value.push_back(c);
  }
  return value;
}

bool is_help(std::string_view word) {
  return word == "help" || word == "?";
}

// Leading zeros do not make another index; absurdly large ones are all the same to us.
std::size_t index_of(std::string_view fragment) {
  std::size_t index = 0;
  for (const char c : fragment) {
    index = std::min<std::size_t>(index * 10 + static_cast<std::size_t>(c - '0'), 1 << 30);
  }
  return index;
}

json::value make_list(json::object& object, const std::string& prefix) {
  std::vector<json::value*> elements(object.size());
  for (auto& member : object) {
    const std::size_t index = index_of(member.key());
    if (index < elements.size()) elements[index] = &member.value();
  }
  json::array result;
  for (std::size_t i = 0; i < elements.size(); ++i) {
    if (!elements[i]) throw Error("Parameter '{}{}' missing", prefix, i);
    result.push_back(std::move(*elements[i]));
  }
  return result;
}

// Turns objects whose keys are all numbers into arrays, from the inside out.
void make_lists(json::value& value, const std::string& prefix) {
  auto& object = value.get_object();
  std::size_t indexes = 0;
  for (auto& member : object) {
    const std::string_view key = member.key();
    if (member.value().is_object()) make_lists(member.value(), prefix + std::string(key) + ".");
    indexes += is_index(key);
  }
  if (indexes == 0) return;
  if (indexes != object.size()) throw Error("Parameters '{}*' used inconsistently", prefix);
  json::value list = make_list(object, prefix);
  value = std::move(list);
}

}  // namespace

KeyvalResult parse_keyval(std::string_view text, std::string_view implied_key) {
  json::object root;
  bool help = false;
  bool first = true;
  while (!text.empty()) {
    const std::size_t length = std::min(text.find_first_of("=,"), text.size());
    const std::string_view word = text.substr(0, length);
    const bool has_value = length < text.size() && text[length] == '=';
    if (!has_value && is_help(word)) {
      help = true;
      text.remove_prefix(std::min(length + 1, text.size()));
    } else if (first && !has_value && length > 0 && !implied_key.empty()) {
      put(root, implied_key, std::string(word));
      text.remove_prefix(std::min(length + 1, text.size()));
    } else {
      split_key(word);
      if (!has_value) throw Error("Expected '=' after parameter '{}'", word);
      text.remove_prefix(length + 1);
      put(root, word, take_value(text));
    }
    first = false;
  }
  json::value value(std::move(root));
  make_lists(value, "");
  return {std::move(value.get_object()), help};
}

OptionValue parse_option(std::string_view text, std::string_view implied_key) {
  if (!text.empty() && text.front() == '{') return {parse_json(text), true, false};
  KeyvalResult result = parse_keyval(text, implied_key);
  return {std::move(result.value), false, result.help};
}

}  // namespace strata::qapi
