// SPDX-License-Identifier: GPL-2.0-or-later
//
// zone_*: zoned devices. No driver has zones to offer, so all that is well said is refused.
#include <cerrno>

#include "tools/io/operands.h"
#include "tools/io/shell.h"

namespace strata::tools {
namespace {

bool refuse(const Arguments& arguments, std::string_view what) {
  for (size_t i = 0; i < arguments.left(); ++i)
    if (!parse_number(arguments[i])) return false;
  fmt::print("zone {} failed: {}\n", what, Error::describe_errno(ENOTSUP));
  return false;
}

}  // namespace

Task<bool> command_zone_append(Shell&, Arguments& arguments) {
  co_return refuse(arguments, "append");
}
Task<bool> command_zone_close(Shell&, Arguments& arguments) {
  co_return refuse(arguments, "close");
}
Task<bool> command_zone_finish(Shell&, Arguments& arguments) {
  co_return refuse(arguments, "finish");
}
Task<bool> command_zone_open(Shell&, Arguments& arguments) {
  co_return refuse(arguments, "open");
}
Task<bool> command_zone_report(Shell&, Arguments& arguments) {
  co_return refuse(arguments, "report");
}
Task<bool> command_zone_reset(Shell&, Arguments& arguments) {
  co_return refuse(arguments, "reset");
}

}  // namespace strata::tools
