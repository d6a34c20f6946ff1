// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/command.h"

#include <cerrno>

#include "tools/common/numbers.h"
#include "tools/common/objects.h"

namespace strata::tools {

int Words::next(const char* letters, const option* options) {
  opterr = 0;
  std::string quiet = std::string(":") + letters;
  int found = ::getopt_long(argc_, argv_, quiet.c_str(), options, nullptr);
  switch (found) {
    case ':':
      throw UsageError{fmt::format("missing argument for option '{}'", argv_[optind - 1])};
    case '?':
      throw UsageError{fmt::format("unrecognized option '{}'", argv_[optind - 1])};
    case 'h':
      print_command_help(argv_[0]);
      throw Exit{0};
    case kObject:
      if (auto help = object_help(optarg)) {
        std::fputs(help->c_str(), stdout);
        throw Exit{0};
      }
      define_object(optarg);
      return next(letters, options);
    default:
      return found;
  }
}

OutputFormat parse_output_format(const std::string& name) {
  if (name == "human") return OutputFormat::human;
  if (name == "json") return OutputFormat::json;
  throw UsageError{fmt::format("--output expects 'human' or 'json', not '{}'", name)};
}

int64_t parse_number(const std::string& text, std::string_view what, int64_t min, int64_t max) {
  Result<int64_t> number = parse_size(text);
  // A plain negative number is one that is out of range.
  bool negative = text.size() > 1 && text[0] == '-' &&
                  text.find_first_not_of("0123456789", 1) == std::string::npos;
  if (!number && number.error_number() == EINVAL && !negative)
    throw Error("Invalid {} specified: '{}'", what, text);
  if (!number || *number < min || *number > max)
    throw Error("Invalid {} specified. Must be between {} and {}.", what, min, max);
  return *number;
}

// A comma in a value is doubled, and so divides nothing.
bool is_help_option(std::string_view options) {
  std::string word;
  for (size_t at = 0; at <= options.size(); ++at) {
    if (at == options.size() || options[at] == ',') {
      if (at + 1 < options.size() && options[at + 1] == ',') {
        word += options[at++];
        continue;
      }
      if (word == "help" || word == "?") return true;
      word.clear();
    } else {
      word += options[at];
    }
  }
  return false;
}

Task<Backend*> Images::open(std::string name, std::optional<std::string> format, bool image_options,
                            OpenFlags flags, boost::json::object more) {
  ImageSource source;
  source.options = std::move(more);
  std::optional<Error> failed;
  try {
    if (image_options)
      source.options = parse_image_options(name, "file");
    else
      source.filename = name;
    source.format = std::move(format);
    open_.push_back(co_await open_backend(tool_, std::move(source), flags));
  } catch (Error& error) {
    failed = std::move(error).prepend(fmt::format("Could not open '{}': ", name));
  }
  if (failed) throw *failed;
  co_return open_.back().get();
}

Backend& Images::adopt(std::unique_ptr<Backend> image) {
  open_.push_back(std::move(image));
  return *open_.back();
}

Backend& Images::adopt(NodePtr node, Permissions permissions) {
  auto image = std::make_unique<Backend>(tool_.layer());
  image->attach(tool_.loop(), std::move(node), permissions);
  return adopt(std::move(image));
}

// The nodes say themselves what was wrong. The latest first: it may stand on those before it.
Task<bool> Images::close_all() {
  bool written = true;
  for (auto at = open_.rbegin(); at != open_.rend(); ++at) {
    Backend& image = **at;
    if (!image.is_attached()) continue;
    if (image.node().is_writable() && !(co_await image.flush()).ok()) written = false;
    co_await image.close(tool_.loop());
  }
  open_.clear();
  co_return written;
}

}  // namespace strata::tools
