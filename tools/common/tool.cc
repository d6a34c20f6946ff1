// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/common/tool.h"

#include <cstdio>

#include "block/drivers/builtin.h"
#include "tools/common/access_objects.h"
#include "tools/common/objects.h"
#include "tools/common/version.h"

namespace strata::tools {
namespace {

// Without /proc there are none.
PassedFds inherited_fds() {
  try {
    return PassedFds::inherited();
  } catch (const Error&) {
    return {};
  }
}

}  // namespace

Tool::Tool(std::string_view argv0)
    : passed_fds_(inherited_fds()),
      context_("main-loop"),
      loop_(context_),
      layer_(loop_, builtin_drivers(), nullptr) {
  set_program_name(argv0);
  layer_.set_surroundings({.passed_fds = &passed_fds_,
                           .find_tls_credentials = find_defined_credentials,
                           .find_secret = find_defined_secret});
}

void report(const Error& error) {
  report("", error);
}

void report(std::string_view prefix, const Error& error) {
  log_error("{}{}", prefix, error.text());
  if (!error.hint_text().empty()) std::fputs(error.hint_text().c_str(), stderr);
}

void print_version(std::string_view word) {
  fmt::print("{}{} {} (Strata {})\n", program_name(), word, kQemuVersion, kVersion);
}

}  // namespace strata::tools
