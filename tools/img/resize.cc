// SPDX-License-Identifier: GPL-2.0-or-later
#include "qapi/runtime/enum.h"
#include "tools/common/numbers.h"
#include "tools/img/command.h"

namespace strata::tools {
namespace {

constexpr option kOptions[]{{"help", no_argument, nullptr, 'h'},
                            {"object", required_argument, nullptr, kObject},
                            {"image-opts", no_argument, nullptr, kImageOpts},
                            {"preallocation", required_argument, nullptr, kPreallocation},
                            {"shrink", no_argument, nullptr, kShrink},
                            {nullptr, 0, nullptr, 0}};

struct Target {
  int direction = 0;  // +1 and -1: relative to the size there is
  int64_t bytes = 0;
};

Target parse_target(std::string text) {
  Target target;
  if (text.starts_with('+') || text.starts_with('-')) {
    target.direction = text[0] == '+' ? 1 : -1;
    text.erase(0, 1);
  }
  Result<int64_t> size = parse_size(text);
  if (!size && size.error_number() == EINVAL)
    throw Error("Parameter 'size' expects a non-negative number below 2^64")
        .hint(
            "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
            "and exabytes, respectively.\n");
  if (!size) throw Error("New image size must be positive");
  target.bytes = *size;
  return target;
}

int64_t new_size(const Target& target, int64_t current) {
  if (target.direction == 0) return target.bytes;
  if (target.direction < 0) return current - target.bytes;
  return target.bytes > INT64_MAX - current ? -1 : current + target.bytes;
}

}  // namespace

Task<int> run_resize(Images& images, Words& words) {
  std::optional<std::string> format;
  bool image_options = false;
  bool quiet = false;
  bool may_shrink = false;
  TruncateOptions how;
  // The size is the last word, and may look like an option.
  std::vector<std::string> all = words.all();
  if (all.size() < 2) throw UsageError{"Not enough arguments"};
  std::string size = words.take_last();
  for (int option; (option = words.next("f:hq", kOptions)) != -1;) {
    switch (option) {
      case 'h':
        print_help(images.tool().layer());
        co_return 0;
      case 'f':
        format = words.value();
        break;
      case 'q':
        quiet = true;
        break;
      case kImageOpts:
        image_options = true;
        break;
      case kPreallocation: {
        auto mode = qapi::from_string<qapi::PreallocMode>(words.value());
        if (!mode) throw Error("Invalid preallocation mode '{}'", words.value());
        how.preallocation = *mode;
        break;
      }
      case kShrink:
        may_shrink = true;
        break;
      default:
        break;
    }
  }
  std::vector<std::string> rest = words.rest();
  if (rest.size() != 1) throw UsageError{"Expecting image file name and size"};
  Target target = parse_target(size);
  OpenFlags flags{.writable = true};
  Backend* image = co_await images.open(rest[0], format, image_options, flags);
  auto current = static_cast<int64_t>(image->length());
  int64_t wanted = new_size(target, current);
  if (wanted <= 0) throw Error("New image size must be positive");
  if (wanted <= current && how.preallocation != qapi::PreallocMode::off)
    throw Error("Preallocation can only be used for growing images");
  if (wanted < current && !may_shrink) {
    log_error("Use the --shrink option to perform a shrink operation.");
    log_warning(
        "Shrinking an image will delete all data beyond the shrunken image's end. Before "
        "performing "
        "such an operation, make sure there is no important data there.");
    co_return 1;
  }
  co_await image->truncate(static_cast<uint64_t>(wanted), how);
  if (!quiet) fmt::print("Image resized.\n");
  co_return 0;
}

}  // namespace strata::tools
