// SPDX-License-Identifier: GPL-2.0-or-later
//
// open, close, reopen, info.
#include "block/names/options.h"
#include "qapi/types_block_info.h"
#include "tools/common/image_info.h"
#include "tools/io/report.h"
#include "tools/io/shell.h"

namespace strata::tools {
namespace {

bool parse_open_options(Arguments& arguments, ImageSource& source, OpenFlags& flags) {
  for (int option; (option = arguments.next_option("snCro:ki:t:d:U")) != -1;) {
    std::string value = option == 'o' || option == 'i' || option == 't' || option == 'd'
                            ? arguments.option_value()
                            : "";
    switch (option) {
      case 's':
        flags.snapshot = true;
        break;
      case 'n':
        set_cache_mode(flags, "none");
        break;
      case 'C':
        flags.copy_on_read = true;
        break;
      case 'r':
        flags.writable = false;
        break;
      case 'k':
        set_aio_mode(flags, "native");
        break;
      case 't':
        if (!set_cache_mode(flags, value)) {
          log_error("Invalid cache option: {}", value);
          return false;
        }
        break;
      case 'd':
        if (!set_discard_mode(flags, value)) {
          log_error("Invalid discard option: {}", value);
          return false;
        }
        break;
      case 'i':
        if (!set_aio_mode(flags, value)) {
          log_error("Invalid aio option: {}", value);
          return false;
        }
        break;
      case 'o':
        try {
          source.options = parse_image_options(value);
        } catch (const Error& error) {
          report(error);
          return false;
        }
        break;
      case 'U':
        flags.force_share = true;
        break;
      default:
        return print_usage(arguments);
    }
  }
  if (arguments.left() > 1) return print_usage(arguments);
  if (arguments.left() == 1) source.filename = arguments[0];
  return true;
}

struct ReopenRequest {
  std::optional<bool> writable;
  std::optional<OpenFlags> cache;  // its cache mode
  boost::json::object options;
};

bool parse_reopen_options(Arguments& arguments, ReopenRequest& request) {
  for (int option; (option = arguments.next_option("c:o:rw")) != -1;) {
    switch (option) {
      case 'c':
        if (!set_cache_mode(request.cache.emplace(), arguments.option_value())) {
          log_error("Invalid cache option: {}", arguments.option_value());
          return false;
        }
        break;
      case 'o':
        if (!request.options.empty()) return print_usage(arguments);
        request.options = parse_image_options(arguments.option_value());
        break;
      case 'r':
      case 'w':
        if (request.writable) {
          log_error("Only one -r/-w option may be given");
          return false;
        }
        request.writable = option == 'w';
        break;
      default:
        return print_usage(arguments);
    }
  }
  if (arguments.left() != 0) return print_usage(arguments);
  return true;
}

}  // namespace

Task<bool> command_open(Shell& shell, Arguments& arguments) {
  ImageSource source;
  // What stands on the command line is for the image that is named there.
  OpenFlags flags{.writable = true, .write_through = true, .discard_unmap = true};
  if (!parse_open_options(arguments, source, flags)) co_return false;
  co_return co_await shell.open(std::move(source), flags);
}

Task<bool> command_close(Shell& shell, Arguments&) {
  co_return co_await shell.close();
}

Task<bool> command_reopen(Shell& shell, Arguments& arguments) {
  ReopenRequest request;
  std::optional<Error> failed;
  try {
    if (!parse_reopen_options(arguments, request)) co_return false;
    boost::json::object& options = request.options;
    if (request.writable) {
      if (options.contains("read-only")) throw Error("Cannot set both -r/-w and 'read-only'");
      options["read-only"] = *request.writable ? "off" : "on";
    }
    if (request.cache) {
      if (options.contains("cache")) throw Error("Cannot set both -c and the cache options");
      boost::json::object& cache = child_of(options, "cache");
      cache["direct"] = request.cache->cache_direct ? "on" : "off";
      cache["no-flush"] = request.cache->cache_no_flush ? "on" : "off";
    }
    co_await shell.hear_background();
    co_await shell.reopen(std::move(options), request.writable);
    if (request.cache) shell.image().set_write_cache(!request.cache->write_through);
  } catch (const Error& error) {
    failed = error;
  }
  if (failed) report(*failed);
  co_return !failed;
}

Task<bool> command_info(Shell& shell, Arguments&) {
  const DriverDescriptor& driver = shell.image().node().descriptor();
  fmt::print("format name: {}\n", driver.format_name());
  if (driver.is_protocol) fmt::print("format name: {}\n", driver.format_name());
  std::optional<ImageFacts> facts = shell.image().node().driver().image_facts();
  if (!facts) co_return false;
  fmt::print("cluster size: {}\nvm state offset: {}\n",
             size_text(static_cast<double>(facts->cluster_size.value_or(0))),
             size_text(static_cast<double>(facts->vm_state_offset)));
  if (auto specific = shell.image().node().driver().specific_info())
    std::fputs(specific_info_text(*specific, 0).c_str(), stdout);
  co_return true;
}

}  // namespace strata::tools
