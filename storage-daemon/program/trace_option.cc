// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/program/trace_option.h"

#include <fstream>

#include "block/base/error.h"
#include "block/base/trace.h"
#include "storage-daemon/program/option_words.h"

namespace strata {
namespace {

// A pattern a line; '#' begins a comment.
std::vector<std::string> read_patterns(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw Error::from_errno(errno, "{}", path);
  std::vector<std::string> patterns;
  for (std::string line; std::getline(file, line);) {
    size_t first = line.find_first_not_of(" \t\r");
    if (first == std::string::npos || line[first] == '#') continue;
    size_t last = line.find_last_not_of(" \t\r");
    patterns.push_back(line.substr(first, last - first + 1));
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
      for (std::string& pattern : read_patterns(word.value))
        option.patterns.push_back(std::move(pattern));
    } else if (word.key == "file") {
      option.file = word.value;
    } else {
      throw Error("Invalid parameter '{}'", word.key);
    }
  }
  return option;
}

std::vector<std::string> apply_trace_option(const TraceOption& option) {
  std::vector<std::string> warnings;
  if (option.file) trace_to_file(*option.file);
  for (const std::string& pattern : option.patterns) {
    bool off = pattern.starts_with('-');
    std::string name = pattern.substr(off ? 1 : 0);
    bool exact = name.find_first_of("*?[") == std::string::npos;
    if (enable_trace_points(name, !off) == 0 && exact)
      warnings.push_back(fmt::format("trace event '{}' does not exist", name));
  }
  return warnings;
}

}  // namespace strata
