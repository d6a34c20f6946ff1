// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/command.h"

namespace strata::tools {
namespace {

constexpr option kOptions[]{{"help", no_argument, nullptr, 'h'},
                            {"format", required_argument, nullptr, 'f'},
                            {"repair", required_argument, nullptr, 'r'},
                            {"output", required_argument, nullptr, kOutput},
                            {"object", required_argument, nullptr, kObject},
                            {"image-opts", no_argument, nullptr, kImageOpts},
                            {"force-share", no_argument, nullptr, 'U'},
                            {nullptr, 0, nullptr, 0}};

// For a format that has nothing to check.
constexpr int kNotSupported = 63;

}  // namespace

Task<int> run_check(Images& images, Words& words) {
  std::optional<std::string> format;
  bool image_options = false;
  OpenFlags flags;
  for (int option; (option = words.next("hf:r:T:qU", kOptions)) != -1;) {
    switch (option) {
      case 'h':
        print_help(images.tool().layer());
        co_return 0;
      case 'f':
        format = words.value();
        break;
      case 'r':
        if (words.value() != "leaks" && words.value() != "all")
          throw UsageError{"-r expects 'leaks' or 'all', not '" + words.value() + "'"};
        flags.writable = true;
        break;
      case 'T':
        if (!set_cache_mode(flags, words.value()))
          throw Error("Invalid source cache option: {}", words.value());
        break;
      case 'U':
        flags.force_share = true;
        break;
      case kOutput:
        parse_output_format(words.value());
        break;
      case kImageOpts:
        image_options = true;
        break;
      default:
        break;
    }
  }
  std::vector<std::string> rest = words.rest();
  if (rest.size() != 1) throw UsageError{"Expecting one image file name"};
  co_await images.open(rest[0], format, image_options, flags);
  log_error("This image format does not support checks");
  co_return kNotSupported;
}

}  // namespace strata::tools
