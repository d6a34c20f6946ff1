// SPDX-License-Identifier: GPL-2.0-or-later
//
// strata-img: makes, looks at and changes images that nobody uses.
#include <getopt.h>

#include <algorithm>
#include <clocale>
#include <csignal>
#include <cstdio>

#include "tools/common/trace.h"
#include "tools/img/command.h"

namespace strata::tools {
namespace {

Task<int> run_command(Images& images, const Subcommand& command, Words& words) {
  std::optional<Error> failed;
  std::optional<UsageError> misused;
  int status = 1;
  try {
    status = co_await command.run(images, words);
  } catch (const Exit& exit) {
    status = exit.status;
  } catch (const UsageError& error) {
    misused = error;
  } catch (const Error& error) {
    failed = error;
  }
  if (misused) {
    log_error("{}", misused->text);
    fmt::print(stderr, "Try '{} {} --help' for more information\n", program_name(), command.name);
  }
  if (failed) report(*failed);
  bool written = co_await images.close_all();
  co_return status == 0 && !written ? 1 : status;
}

int refuse(std::string_view text) {
  log_error("{}", text);
  fmt::print(stderr, "Try '{} --help' for more information\n", program_name());
  return 1;
}

constexpr option kOptions[]{{"help", no_argument, nullptr, 'h'},
                            {"version", no_argument, nullptr, 'V'},
                            {"trace", required_argument, nullptr, 'T'},
                            {nullptr, 0, nullptr, 0}};

int run(int argc, char** argv) {
  std::setlocale(LC_ALL, "");
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a limit of files is an error of the write
  Tool tool(argv[0]);
  opterr = 0;
  for (int option; (option = ::getopt_long(argc, argv, "+:hVT:", kOptions, nullptr)) != -1;) {
    switch (option) {
      case 'h':
        print_help(tool.layer());
        return 0;
      case 'V':
        print_version();
        return 0;
      case 'T':
        try {
          if (!take_trace(optarg)) return 0;
        } catch (const Error& error) {
          log_error("{}", error.text());
          return 1;
        }
        break;
      case ':':
        return refuse(fmt::format("missing argument for option '{}'", argv[optind - 1]));
      default:
        return refuse(fmt::format("unrecognized option '{}'", argv[optind - 1]));
    }
  }
  if (optind >= argc) return refuse("Not enough arguments");
  argc -= optind;
  argv += optind;
  optind = 0;
  auto all = subcommands();
  auto command = std::find_if(all.begin(), all.end(),
                              [&](const Subcommand& one) { return one.name == argv[0]; });
  if (command == all.end()) return refuse(fmt::format("Command not found: {}", argv[0]));
  Words words(*command, {argv, static_cast<size_t>(argc)});
  Images images(tool);
  return tool.run(run_command(images, *command, words));
}

}  // namespace
}  // namespace strata::tools

int main(int argc, char** argv) {
  return strata::tools::run(argc, argv);
}
