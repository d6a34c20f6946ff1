// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace strata {

struct TraceOption {
  std::vector<std::string> patterns;  // "-NAME" switches off
  std::optional<std::string> file;
  bool help = false;
};

// [enable=]PATTERN[,events=FILE][,file=FILE]; reads the file of patterns. Throws Error.
TraceOption parse_trace_option(const std::string& text);

// Does what the option says; yields warnings.
std::vector<std::string> apply_trace_option(const TraceOption& option);

}  // namespace strata
