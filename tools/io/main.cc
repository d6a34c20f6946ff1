// SPDX-License-Identifier: GPL-2.0-or-later
//
// strata-io: reads and writes images by hand, for tests and for repairs.
#include <getopt.h>

#include <clocale>
#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "tools/common/objects.h"
#include "tools/common/trace.h"
#include "tools/io/prompt.h"
#include "tools/io/shell.h"

namespace strata::tools {
namespace {

enum LongOption { kObject = 256, kImageOpts };

constexpr option kLongOptions[]{
    {"help", no_argument, nullptr, 'h'},
    {"version", no_argument, nullptr, 'V'},
    {"cmd", required_argument, nullptr, 'c'},
    {"format", required_argument, nullptr, 'f'},
    {"read-only", no_argument, nullptr, 'r'},
    {"snapshot", no_argument, nullptr, 's'},
    {"nocache", no_argument, nullptr, 'n'},
    {"copy-on-read", no_argument, nullptr, 'C'},
    {"misalign", no_argument, nullptr, 'm'},
    {"native-aio", no_argument, nullptr, 'k'},
    {"aio", required_argument, nullptr, 'i'},
    {"discard", required_argument, nullptr, 'd'},
    {"cache", required_argument, nullptr, 't'},
    {"trace", required_argument, nullptr, 'T'},
    {"force-share", no_argument, nullptr, 'U'},
    {"object", required_argument, nullptr, kObject},
    {"image-opts", no_argument, nullptr, kImageOpts},
    {nullptr, 0, nullptr, 0},
};

void print_help(const char* name) {
  fmt::print(R"(Usage: {} [OPTIONS]... [-c STRING]... [file]
QEMU Disk exerciser

  --object OBJECTDEF   define an object such as 'secret' for
                       passwords and/or encryption keys
  --image-opts         treat file as option string
  -c, --cmd STRING     execute command with its arguments
                       from the given string
  -f, --format FMT     specifies the block driver to use
  -r, --read-only      export read-only
  -s, --snapshot       use snapshot file
  -n, --nocache        disable host cache, short for -t none
  -C, --copy-on-read   enable copy-on-read
  -m, --misalign       misalign allocations for O_DIRECT
  -k, --native-aio     use kernel AIO implementation
                       (Linux only, prefer use of -i)
  -i, --aio=MODE       use AIO mode (threads, native or io_uring)
  -t, --cache=MODE     use the given cache mode for the image
  -d, --discard=MODE   use the given discard mode for the image
  -T, --trace [[enable=]<pattern>][,events=<file>][,file=<file>]
                       specify tracing options
                       see qemu-img(1) man page for full description
  -U, --force-share    force shared permissions
  -h, --help           display this help and exit
  -V, --version        output version information and exit

See '{} -c help' for information on available commands.

See <https://qemu.org/contribute/report-a-bug> for how to report bugs.
More information on the QEMU project at <https://qemu.org>.
)",
             name, name);
}

struct CommandLine {
  OpenFlags flags{.writable = true, .write_through = true, .discard_unmap = true};
  std::optional<std::string> format;
  bool image_options = false;
  bool misalign = false;
  std::vector<std::string> commands;
  std::vector<std::string> objects;
  std::optional<std::string> image;
};

// What stands on the command line, or the status to exit with.
struct ParseResult {
  CommandLine line;
  std::optional<int> exit;
};

bool refuse_mode(const char* what, const char* value) {
  log_error("Invalid {} option: {}", what, value);
  return false;
}

// False if the option's value is wrong; said already.
bool take_option(int option, const char* value, CommandLine& line) {
  switch (option) {
    case 's':
      line.flags.snapshot = true;
      return true;
    case 'n':
      return set_cache_mode(line.flags, "none");
    case 'C':
      line.flags.copy_on_read = true;
      return true;
    case 'm':
      line.misalign = true;
      return true;
    case 'r':
      line.flags.writable = false;
      return true;
    case 'k':
      return set_aio_mode(line.flags, "native");
    case 'U':
      line.flags.force_share = true;
      return true;
    case 'd':
      return set_discard_mode(line.flags, value) || refuse_mode("discard", value);
    case 't':
      return set_cache_mode(line.flags, value) || refuse_mode("cache", value);
    case 'i':
      return set_aio_mode(line.flags, value) || refuse_mode("aio", value);
    case 'f':
      line.format = value;
      return true;
    case 'c':
      line.commands.emplace_back(value);
      return true;
    case kObject:
      line.objects.emplace_back(value);
      return true;
    case kImageOpts:
      line.image_options = true;
      return true;
    default:
      return false;
  }
}

ParseResult parse(int argc, char** argv) {
  ParseResult result;
  std::string name(program_name());
  for (int option; (option = ::getopt_long(argc, argv, "hVc:d:f:rsnCmki:t:T:U", kLongOptions,
                                           nullptr)) != -1;) {
    if (option == 'T') {
      try {
        if (!take_trace(optarg)) result.exit = 0;
      } catch (const Error& error) {
        report(error);
        result.exit = 1;
      }
    } else if (option == 'V') {
      print_version();
      result.exit = 0;
    } else if (option == 'h' || option == '?') {
      print_help(name.c_str());
      result.exit = option == 'h' ? 0 : 1;
    } else if (!take_option(option, optarg, result.line)) {
      result.exit = 1;
    }
    if (result.exit) return result;
  }
  if (argc - optind > 1) {
    print_help(name.c_str());
    result.exit = 1;
  } else if (result.line.format && result.line.image_options) {
    log_error("--image-opts and -f are mutually exclusive");
    result.exit = 1;
  } else if (argc - optind == 1) {
    result.line.image = argv[optind];
  }
  return result;
}

Task<bool> open_first_image(Shell& shell, const CommandLine& line) {
  ImageSource source;
  source.format = line.format;
  if (line.image_options) {
    try {
      source.options = parse_image_options(*line.image);
    } catch (const Error& error) {
      report(error);
      co_return false;
    }
  } else {
    source.filename = line.image;
  }
  co_return co_await shell.open(std::move(source), line.flags);
}

Task<bool> run_interactively(Shell& shell) {
  Prompt prompt(shell.tool().context(), std::string(program_name()) + "> ");
  bool ok = true;
  while (!shell.is_done()) {
    std::optional<std::string> line = co_await prompt.next_line();
    if (!line) break;
    co_await shell.hear_background();
    if (!co_await shell.execute(*line)) ok = false;
  }
  co_return ok;
}

Task<bool> run_session(Shell& shell, const CommandLine& line) {
  if (line.image && !co_await open_first_image(shell, line)) co_return false;
  bool ok = true;
  if (line.commands.empty()) {
    ok = co_await run_interactively(shell);
  } else {
    for (const std::string& command : line.commands) {
      if (shell.is_done()) break;
      if (!co_await shell.execute(command)) ok = false;
    }
  }
  if (!co_await shell.close()) ok = false;
  co_return ok;
}

int run(int argc, char** argv) {
  std::setlocale(LC_ALL, "");
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a limit of files is an error of the write
  Tool tool(argv[0]);
  ParseResult parsed = parse(argc, argv);
  if (parsed.exit) return *parsed.exit;
  try {
    for (const std::string& object : parsed.line.objects) {
      if (auto help = object_help(object)) {
        std::fputs(help->c_str(), stdout);
        return 0;
      }
      define_object(object);
    }
  } catch (const Error& error) {
    report(error);
    return 1;
  }
  Shell shell(tool, parsed.line.misalign);
  return tool.run(run_session(shell, parsed.line)) ? 0 : 1;
}

}  // namespace
}  // namespace strata::tools

int main(int argc, char** argv) {
  return strata::tools::run(argc, argv);
}
