// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/common/trace.h"

#include "block/base/trace.h"
#include "block/base/trace_option.h"

namespace strata::tools {

bool take_trace(const std::string& value) {
  TraceOption option = parse_trace_option(value);
  if (option.help) {
    for (const std::string& name : trace_point_names()) fmt::print("{}\n", name);
    return false;
  }
  for (const TracePattern& unknown : apply_trace_option(option)) warn_of_unknown(unknown);
  return true;
}

}  // namespace strata::tools
