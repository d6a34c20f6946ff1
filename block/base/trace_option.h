// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

struct TracePattern {
  std::string name;   // "-NAME" switches off
  std::string place;  // "FILE:LINE", where it stands in a file
};

struct TraceOption {
  std::vector<std::string> patterns;  // "-NAME" switches off
  std::optional<std::string> events;  // a file of patterns
  std::optional<std::string> file;
  bool help = false;
};

// [enable=]PATTERN[,events=FILE][,file=FILE]. Throws Error.
TraceOption parse_trace_option(const std::string& text);

// Does what the option says; yields the patterns that name no trace point. Throws Error. Without
// the file of patterns the program ends, having said why: its start is no start.
std::vector<TracePattern> apply_trace_option(const TraceOption& option);

// Warns of one that apply_trace_option() returned, which stands in `option` of the command line, or
// in a file ("": no option is named).
void warn_of_unknown(const TracePattern& pattern, std::string_view option = {});

}  // namespace strata
