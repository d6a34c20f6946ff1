// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/blkdebug/config_file.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <map>

#include "block/base/error.h"
#include "qapi/runtime/scalars.h"

namespace strata::blkdebug {
namespace {

constexpr std::string_view kBlanks = " \t\r\v\f";

constexpr std::string_view kInject = "inject-error";
constexpr std::string_view kSetState = "set-state";
constexpr std::array<std::string_view, 7> kInjectKeys{"event",  "state", "iotype",     "errno",
                                                      "sector", "once",  "immediately"};
constexpr std::array<std::string_view, 3> kSetStateKeys{"event", "state", "new_state"};

struct Section {
  std::string kind;
  std::map<std::string, std::string> values;
};

std::string_view trim_left(std::string_view text) noexcept {
  text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
  return text;
}

// `[kind]` or `[kind "name"]`; empty if it is neither.
std::string section_kind(std::string_view line) {
  line.remove_prefix(1);
  size_t end = line.find_first_of(" ]");
  if (end == line.npos || end == 0) return {};
  std::string kind(line.substr(0, end));
  if (line[end] == ']') return kind;
  std::string_view rest = trim_left(line.substr(end));
  if (!rest.starts_with('"')) return {};
  size_t quote = rest.find('"', 1);
  return quote != rest.npos && rest.substr(quote).starts_with("\"]") ? kind : std::string();
}

// `key = "value"`. What follows the key and is no value counts as an empty one.
std::pair<std::string, std::string> parse_assignment(std::string_view line) {
  size_t end = std::min(line.find_first_of(kBlanks), line.size());
  std::string key(line.substr(0, end));
  std::string_view rest = trim_left(line.substr(end));
  if (!rest.starts_with('=')) return {key, ""};
  rest = trim_left(rest.substr(1));
  if (!rest.starts_with('"')) return {key, ""};
  rest.remove_prefix(1);
  return {key, std::string(rest.substr(0, rest.find('"')))};
}

void take_assignment(Section& section, std::string_view line) {
  auto [key, value] = parse_assignment(line);
  std::span<const std::string_view> known = kInjectKeys;
  if (section.kind == kSetState) known = kSetStateKeys;
  if (std::find(known.begin(), known.end(), key) == known.end())
    throw Error("Invalid parameter '{}'", key);
  section.values[key] = std::move(value);
}

std::vector<Section> parse_sections(std::string_view text) {
  std::vector<Section> sections;
  while (!text.empty()) {
    size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = trim_left(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty() || line.starts_with('#')) continue;
    if (line.starts_with('[')) {
      Section section{section_kind(line), {}};
      if (section.kind.empty()) throw Error("parse error");
      if (section.kind != kInject && section.kind != kSetState)
        throw Error("There is no option group '{}'", section.kind);
      sections.push_back(std::move(section));
      continue;
    }
    if (sections.empty()) throw Error("no group defined");
    take_assignment(sections.back(), line);
  }
  return sections;
}

template <class E>
std::optional<E> enum_value(const Section& section, const char* key) {
  auto found = section.values.find(key);
  if (found == section.values.end()) return std::nullopt;
  std::optional<E> value = qapi::from_string<E>(found->second);
  if (!value) throw Error("invalid parameter value: {}", found->second);
  return value;
}

std::optional<int64_t> number_value(const Section& section, const char* key) {
  auto found = section.values.find(key);
  if (found == section.values.end()) return std::nullopt;
  std::optional<int64_t> value = qapi::parse_int64(found->second);
  if (!value) throw Error("Parameter '{}' expects a number", key);
  return value;
}

std::optional<bool> switch_value(const Section& section, const char* key) {
  auto found = section.values.find(key);
  if (found == section.values.end()) return std::nullopt;
  std::optional<bool> value = qapi::parse_switch(found->second);
  if (!value) throw Error("Parameter '{}' expects 'on' or 'off'", key);
  return value;
}

Rule rule_of(const Section& section) {
  auto event = enum_value<qapi::BlkdebugEvent>(section, "event");
  if (!event) throw Error("Missing event name for rule");
  if (section.kind == kSetState) {
    qapi::BlkdebugSetStateOptions options;
    options.event = *event;
    options.state = number_value(section, "state");
    options.new_state = number_value(section, "new_state").value_or(0);
    return make_rule(options);
  }
  qapi::BlkdebugInjectErrorOptions options;
  options.event = *event;
  options.state = number_value(section, "state");
  options.errno_ = number_value(section, "errno");
  options.sector = number_value(section, "sector");
  options.iotype = enum_value<qapi::BlkdebugIOType>(section, "iotype");
  options.once = switch_value(section, "once");
  options.immediately = switch_value(section, "immediately");
  return make_rule(options);
}

}  // namespace

std::vector<Rule> parse_config(std::string_view text) {
  std::vector<Rule> rules;
  for (const Section& section : parse_sections(text)) rules.push_back(rule_of(section));
  return rules;
}

std::vector<Rule> read_config(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error::from_errno(errno, "Could not read blkdebug config file");
  std::string text{std::istreambuf_iterator<char>(file), {}};
  return parse_config(text);
}

}  // namespace strata::blkdebug
