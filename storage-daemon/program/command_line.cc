// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/program/command_line.h"

#include <getopt.h>

#include <array>
#include <fstream>
#include <iterator>

#include "block/base/error.h"
#include "block/base/log.h"
#include "qapi/runtime/json_parser.h"
#include "qapi/visit_strata.h"

namespace strata {
namespace {

constexpr int value_of(OptionKind kind) {
  return 256 + static_cast<int>(kind);
}

constexpr std::array kLongOptions = std::to_array<option>({
    {"allow-path", required_argument, nullptr, value_of(OptionKind::allow_path)},
    {"blockdev", required_argument, nullptr, value_of(OptionKind::blockdev)},
    {"chardev", required_argument, nullptr, value_of(OptionKind::chardev)},
    {"config", required_argument, nullptr, value_of(OptionKind::config)},
    {"daemonize", no_argument, nullptr, value_of(OptionKind::daemonize)},
    {"export", required_argument, nullptr, value_of(OptionKind::export_)},
    {"help", no_argument, nullptr, 'h'},
    {"metrics", required_argument, nullptr, value_of(OptionKind::metrics)},
    {"monitor", required_argument, nullptr, value_of(OptionKind::monitor)},
    {"nbd-server", required_argument, nullptr, value_of(OptionKind::nbd_server)},
    {"object", required_argument, nullptr, value_of(OptionKind::object)},
    {"pidfile", required_argument, nullptr, value_of(OptionKind::pidfile)},
    {"sandbox", required_argument, nullptr, value_of(OptionKind::sandbox)},
    {"trace", required_argument, nullptr, 'T'},
    {"user", required_argument, nullptr, value_of(OptionKind::user)},
    {"version", no_argument, nullptr, 'V'},
    {nullptr, 0, nullptr, 0},
});

constexpr size_t kMaxConfig = 16 << 20;

OptionKind kind_of(int found) {
  switch (found) {
    case 'h':
      return OptionKind::help;
    case 'T':
      return OptionKind::trace;
    case 'V':
      return OptionKind::version;
    default:
      return static_cast<OptionKind>(found - value_of(OptionKind{}));
  }
}

qapi::StrataConfig read_config(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw Error::from_errno(errno, "Could not open '{}'", path);
  std::string text;
  for (char c; text.size() <= kMaxConfig && file.get(c);) text += c;
  if (file.bad()) throw Error::from_errno(errno, "Could not read '{}'", path);
  if (text.size() > kMaxConfig) throw Error("'{}' is too long for a configuration", path);
  return qapi::from_json<qapi::StrataConfig>(qapi::parse_json(text));
}

void take_config(CommandLine& line, const qapi::StrataConfig& config) {
  line.daemonize |= config.daemonize.value_or(false);
  if (config.pidfile) line.pidfile = config.pidfile;
  if (config.user) line.user = config.user;
  if (config.sandbox) line.sandbox.on = *config.sandbox;
  if (config.allow_path)
    line.sandbox.allowed.insert(line.sandbox.allowed.end(), config.allow_path->begin(),
                                config.allow_path->end());
}

void take(CommandLine& line, CommandLineOption option) {
  switch (option.kind) {
    case OptionKind::allow_path:
      line.sandbox.allowed.push_back(option.argument);
      return;
    case OptionKind::sandbox:
      if (option.argument != "on" && option.argument != "off")
        throw Error("{}: 'sandbox' expects 'on' or 'off'", option.where);
      line.sandbox.on = option.argument == "on";
      return;
    case OptionKind::user:
      line.user = option.argument;
      return;
    case OptionKind::daemonize:
      line.daemonize = true;
      return;
    case OptionKind::pidfile:
      line.pidfile = option.argument;
      return;
    case OptionKind::config:
      try {
        option.config = read_config(option.argument);
      } catch (Error& error) {
        throw std::move(error).prepend(option.where + ": ");
      }
      take_config(line, *option.config);
      break;
    default:
      break;
  }
  line.options.push_back(std::move(option));
}

}  // namespace

CommandLine parse_command_line(int argc, char** argv) {
  CommandLine line;
  // getopt() itself says what is wrong, on standard error, as "PROGRAM: ...".
  std::string name(program_name());
  std::vector<char*> words(argv, argv + argc);
  words.push_back(nullptr);
  words[0] = name.data();
  optind = 1;
  for (;;) {
    int first = optind;
    int found = ::getopt_long(argc, words.data(), "-hT:V", kLongOptions.data(), nullptr);
    if (found == -1) break;
    if (found == '?') throw Error::from_text("");
    if (found == 1) throw Error("{}: Unexpected argument", optarg);
    CommandLineOption option{.kind = kind_of(found)};
    if (option.kind == OptionKind::help) line.message = help_text(program_name());
    if (option.kind == OptionKind::version) line.message = version_text(program_name());
    if (line.message) return line;
    if (optarg != nullptr) option.argument = optarg;
    for (int i = first; i < optind; ++i)
      option.where += (i == first ? "" : " ") + std::string(argv[i]);
    take(line, std::move(option));
  }
  if (optind < argc) throw Error("{}: Unexpected argument", argv[optind]);
  return line;
}

}  // namespace strata
