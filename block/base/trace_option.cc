// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/base/trace_option.h"

#include <cerrno>
#include <cstdlib>
#include <fstream>

#include "block/base/error.h"
#include "block/base/log.h"
#include "block/base/option_words.h"
#include "block/base/trace.h"

namespace strata {
namespace {

// A pattern a line; '#' begins a comment.
std::vector<TracePattern> read_patterns(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    write_log_line(Error::describe_errno(errno), path);
    std::exit(1);
  }
  std::vector<TracePattern> patterns;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    size_t first = line.find_first_not_of(" \t\r");
    if (first == std::string::npos || line[first] == '#') continue;
    size_t last = line.find_last_not_of(" \t\r");
    patterns.push_back({line.substr(first, last - first + 1), fmt::format("{}:{}", path, number)});
  }
  return patterns;
}

}  // namespace

TraceOption parse_trace_option(const std::string& text) {
  TraceOption option;
  for (const OptionWord& word : split_option(text, "enable")) {
    if (word.key == "enable") {
      option.help |= word.value == "help" || word.value == "?";
      option.patterns.push_back(word.value);
    } else if (word.key == "events") {
      option.events = word.value;
    } else if (word.key == "file") {
      option.file = word.value;
    } else {
      throw Error("Invalid parameter '{}'", word.key);
    }
  }
  return option;
}

std::vector<TracePattern> apply_trace_option(const TraceOption& option) {
  std::vector<TracePattern> patterns;
  if (option.events) patterns = read_patterns(*option.events);
  if (option.file) trace_to_file(*option.file);
  for (auto name = option.patterns.rbegin(); name != option.patterns.rend(); ++name)
    patterns.insert(patterns.begin(), {*name, {}});
  std::vector<TracePattern> unknown;
  for (const TracePattern& pattern : patterns) {
    bool off = pattern.name.starts_with('-');
    std::string_view name = std::string_view(pattern.name).substr(off ? 1 : 0);
    bool exact = name.find_first_of("*?[") == name.npos;
    if (enable_trace_points(name, !off) == 0 && exact)
      unknown.push_back({std::string(name), pattern.place});
  }
  return unknown;
}

void warn_of_unknown(const TracePattern& pattern, std::string_view option) {
  std::string_view own = pattern.place.empty() ? option : std::string_view();
  write_log_line(fmt::format("{}{}warning: trace event '{}' does not exist", own,
                             own.empty() ? "" : ": ", pattern.name),
                 pattern.place);
}

}  // namespace strata
