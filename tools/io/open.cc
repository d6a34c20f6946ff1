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

// The members that may be changed while a node of any driver is open.
bool is_changeable(std::string_view key) noexcept {
  return key == "read-only" || key == "auto-read-only" || key == "cache" || key == "discard" ||
         key == "detect-zeroes" || key == "force-share";
}

void check_changeable(const DriverDescriptor& driver, const boost::json::object& options) {
  if (driver.supports_backing) return;  // it judges itself
  for (const auto& [key, value] : options) {
    std::string_view name(key.data(), key.size());
    if (is_changeable(name)) continue;
    const boost::json::value* leaf = &value;
    while (const boost::json::object* tree = leaf->if_object()) {
      if (tree->empty()) break;
      name = std::string_view(tree->begin()->key().data(), tree->begin()->key().size());
      leaf = &tree->begin()->value();
    }
    throw Error("Cannot change the option '{}'", name);
  }
}

struct ReopenRequest {
  OpenFlags flags;
  std::optional<bool> writable;
  bool has_cache_mode = false;
  boost::json::object options;
};

bool parse_reopen_options(Arguments& arguments, ReopenRequest& request) {
  for (int option; (option = arguments.next_option("c:o:rw")) != -1;) {
    switch (option) {
      case 'c':
        if (!set_cache_mode(request.flags, arguments.option_value())) {
          log_error("Invalid cache option: {}", arguments.option_value());
          return false;
        }
        request.has_cache_mode = true;
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
  OpenFlags flags = shell.default_flags();
  flags.writable = true;
  if (!parse_open_options(arguments, source, flags)) co_return false;
  co_return co_await shell.open(std::move(source), flags);
}

Task<bool> command_close(Shell& shell, Arguments&) {
  co_return co_await shell.close();
}

Task<bool> command_reopen(Shell& shell, Arguments& arguments) {
  ReopenRequest request;
  request.flags = shell.image_flags();
  std::optional<Error> failed;
  try {
    if (!parse_reopen_options(arguments, request)) co_return false;
    if (request.writable && request.options.contains("read-only"))
      throw Error("Cannot set both -r/-w and 'read-only'");
    if (request.has_cache_mode && request.options.contains("cache"))
      throw Error("Cannot set both -c and the cache options");
    check_changeable(shell.image().node().descriptor(), request.options);
    request.flags.writable = request.writable.value_or(request.flags.writable);
    if (const boost::json::value* read_only = request.options.if_contains("read-only"))
      request.flags.writable = read_only->is_string() && read_only->get_string() != "on";
    request.options.erase("read-only");
    co_await shell.reopen(request.flags, std::move(request.options));
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
