// SPDX-License-Identifier: GPL-2.0-or-later
//
// abort, help, quit, sigraise, sleep; and the breakpoints of blkdebug.
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "block/drivers/blkdebug/blkdebug.h"
#include "qapi/visit_block_debug.h"
#include "tools/io/operands.h"
#include "tools/io/shell.h"

namespace strata::tools {
namespace {

// False, with a complaint, for an error.
bool check_break(std::string_view what, Status status) {
  if (!status.ok())
    fmt::print("Could not {}: {}\n", what, Error::describe_errno(status.error_number()));
  return status.ok();
}

blkdebug::RuleBook* rules_of(Shell& shell) {
  return debug_rules_of(shell.image().node());
}

void print_all_usages() {
  for (const Command& command : commands()) print_usage(command);
  fmt::print("\nUse 'help commandname' for extended help.\n");
}

}  // namespace

Task<bool> command_abort(Shell&, Arguments&) {
  std::abort();
  co_return false;
}

Task<bool> command_help(Shell&, Arguments& arguments) {
  if (arguments.left() == 0) {
    print_all_usages();
    co_return true;
  }
  const Command* command = find_command(arguments[0]);
  if (command == nullptr) {
    fmt::print("command {} not found\n", arguments[0]);
    co_return false;
  }
  print_usage(*command);
  if (command->help != nullptr) std::fputs(command->help, stdout);
  co_return true;
}

Task<bool> command_quit(Shell& shell, Arguments&) {
  shell.quit();
  co_return true;
}

Task<bool> command_sigraise(Shell&, Arguments& arguments) {
  std::optional<int64_t> number = parse_number(arguments[0]);
  if (!number) co_return false;
  if (*number > NSIG) {
    fmt::print("signal argument '{}' is too large to be a valid signal number\n", arguments[0]);
    co_return false;
  }
  // What was said is not lost if the signal kills.
  std::fflush(stdout);
  std::raise(static_cast<int>(*number));
  co_return true;
}

Task<bool> command_sleep(Shell& shell, Arguments& arguments) {
  std::string text = arguments[0];
  char* end = nullptr;
  errno = 0;
  long milliseconds = std::strtol(text.c_str(), &end, 0);
  if (errno != 0 || end == text.c_str() || *end != '\0' || milliseconds < 0) {
    fmt::print("{} is not a valid number\n", text);
    co_return false;
  }
  co_await shell.tool().context().sleep_for(std::chrono::milliseconds(milliseconds));
  co_return true;
}

Task<bool> command_break(Shell& shell, Arguments& arguments) {
  blkdebug::RuleBook* rules = rules_of(shell);
  Status status = Status::error(ENOTSUP);
  if (rules != nullptr) {
    auto event = qapi::from_string<qapi::BlkdebugEvent>(arguments[0]);
    status = event ? Status() : Status::error(ENOENT);
    if (event) rules->set_breakpoint(*event, arguments[1]);
  }
  co_return check_break("set breakpoint", status);
}

Task<bool> command_remove_break(Shell& shell, Arguments& arguments) {
  blkdebug::RuleBook* rules = rules_of(shell);
  Status status = Status::error(ENOTSUP);
  if (rules != nullptr) status = rules->remove_breakpoint(arguments[0]);
  co_return check_break("remove breakpoint " + arguments[0], status);
}

Task<bool> command_resume(Shell& shell, Arguments& arguments) {
  blkdebug::RuleBook* rules = rules_of(shell);
  Status status = Status::error(ENOTSUP);
  if (rules != nullptr) status = rules->resume(arguments[0]);
  // What was stopped has its turn before the next command.
  co_await shell.tool().context().yield();
  co_return check_break("resume request", status);
}

Task<bool> command_wait_break(Shell& shell, Arguments& arguments) {
  blkdebug::RuleBook* rules = rules_of(shell);
  if (rules == nullptr) co_return check_break("wait for a request", Status::error(ENOTSUP));
  co_await rules->wait_until_suspended(arguments[0]);
  co_return true;
}

}  // namespace strata::tools
