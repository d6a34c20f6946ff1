// SPDX-License-Identifier: GPL-2.0-or-later
#include "qapi/runtime/enum.h"
#include "qapi/runtime/scalars.h"
#include "tools/common/numbers.h"
#include "tools/img/command.h"

namespace strata::tools {
namespace {

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
  if (!size && size.error_number() == EINVAL) throw qapi::not_a_size("size", text);
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
  ImageChoice how{.flags = {.writable = true}};
  bool quiet = false;
  bool may_shrink = false;
  TruncateOptions resize;
  // The size is the last word, and may look like an option.
  std::string size = words.take_last(2);
  auto preallocation = [&resize](const std::string& name) {
    auto mode = qapi::from_string<qapi::PreallocMode>(name);
    if (!mode) throw Error("Invalid preallocation mode '{}'", name);
    resize.preallocation = *mode;
  };
  std::vector<std::string> rest = words.parse({
      {"--shrink", "accept that data is lost", set(may_shrink)},
      {"--preallocation MODE", "how to allocate what is added: off, metadata, falloc or full",
       preallocation},
      format_option(how),
      image_options_option(how),
      quiet_option(quiet),
  });
  if (rest.size() != 1) throw UsageError{"Expecting image file name and size"};
  Target target = parse_target(size);
  Backend* image = co_await images.open(rest[0], std::move(how));
  auto current = static_cast<int64_t>(image->length());
  int64_t wanted = new_size(target, current);
  if (wanted <= 0) throw Error("New image size must be positive");
  if (wanted <= current && resize.preallocation != qapi::PreallocMode::off)
    throw Error("Preallocation can only be used for growing images");
  if (wanted < current && !may_shrink) {
    log_error("Use the --shrink option to perform a shrink operation.");
    log_warning(
        "Shrinking an image will delete all data beyond the shrunken image's end. Before "
        "performing "
        "such an operation, make sure there is no important data there.");
    co_return 1;
  }
  co_await image->truncate(static_cast<uint64_t>(wanted), resize);
  if (!quiet) fmt::print("Image resized.\n");
  co_return 0;
}

}  // namespace strata::tools
