// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "qapi/types_strata.h"

namespace strata {

enum class OptionKind {
  blockdev,
  chardev,
  config,
  daemonize,
  export_,
  help,
  metrics,
  monitor,
  nbd_server,
  object,
  pidfile,
  trace,
  allow_path,
  sandbox,
  user,
  version,
};

struct CommandLineOption {
  OptionKind kind;
  std::string argument;
  std::string where;  // as the user wrote it, for error texts: "--blockdev driver=file"
  // Of --config: what the file says.
  std::optional<qapi::StrataConfig> config;
};

struct SandboxOptions {
  bool on = false;
  std::vector<std::string> allowed;  // directories beside those that other options name
};

struct CommandLine {
  std::vector<CommandLineOption> options;  // in their order
  bool daemonize = false;
  std::optional<std::string> pidfile;  // the last one
  std::optional<std::string> user;     // to become once everything is set up
  SandboxOptions sandbox;
  // The program only says something about itself and ends well.
  std::optional<std::string> message;
};

// Reads the words, and the files that --config names. Throws Error with a text that says where.
CommandLine parse_command_line(int argc, char** argv);

std::string help_text(std::string_view program);
std::string version_text(std::string_view program);

}  // namespace strata
