// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/common/tool.h"

#include <cstdio>

#include "block/drivers/builtin.h"
#include "tools/common/version.h"

namespace strata::tools {

Tool::Tool(std::string_view argv0)
    : context_("main-loop"), loop_(context_), layer_(loop_, builtin_drivers(), nullptr) {
  set_program_name(argv0);
}

void report(const Error& error) {
  report("", error);
}

void report(std::string_view prefix, const Error& error) {
  log_error("{}{}", prefix, error.text());
  if (!error.hint_text().empty()) std::fputs(error.hint_text().c_str(), stderr);
}

void print_version() {
  fmt::print("{} version {} (Strata {})\n", program_name(), kQemuVersion, kVersion);
}

}  // namespace strata::tools
