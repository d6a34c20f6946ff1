// SPDX-License-Identifier: GPL-2.0-or-later
#include <boost/json/object.hpp>

#include "qapi/runtime/json_writer.h"
#include "tools/img/command.h"
#include "tools/img/create_options.h"

namespace strata::tools {
namespace {

constexpr option kOptions[]{{"help", no_argument, nullptr, 'h'},
                            {"object", required_argument, nullptr, kObject},
                            {"image-opts", no_argument, nullptr, kImageOpts},
                            {"force-share", no_argument, nullptr, 'U'},
                            {"output", required_argument, nullptr, kOutput},
                            {"size", required_argument, nullptr, kSize},
                            {nullptr, 0, nullptr, 0}};

struct Request {
  std::optional<std::string> format;
  std::string output_format = "raw";
  std::string options;
  std::optional<std::string> snapshot;
  std::optional<int64_t> size;
  bool image_options = false;
  OutputFormat output = OutputFormat::human;
  OpenFlags flags;
  bool help = false;
};

// "snapshot.id=ID,snapshot.name=NAME" or the one or the other.
void check_snapshot(const std::string& text) {
  if (!text.starts_with("snapshot.")) return;
  std::string_view rest = text;
  while (!rest.empty()) {
    std::string_view item = rest.substr(0, rest.find(','));
    std::string_view name = item.substr(0, item.find('='));
    if (name != "snapshot.id" && name != "snapshot.name") {
      log_error("Invalid parameter '{}'", name);
      throw Error("Failed in parsing snapshot param '{}'", text);
    }
    rest.remove_prefix(std::min(item.size() + 1, rest.size()));
  }
}

Request parse(Words& words) {
  Request request;
  for (int option; (option = words.next("hf:l:o:O:U", kOptions)) != -1;) {
    switch (option) {
      case 'h':
        request.help = true;
        break;
      case 'f':
        request.format = words.value();
        break;
      case 'l':
        check_snapshot(words.value());
        request.snapshot = words.value();
        break;
      case 'o':
        if (words.value().empty() || words.value().front() == ',' || words.value().back() == ',')
          throw Error("Invalid option list: {}", words.value());
        request.options += (request.options.empty() ? "" : ",") + words.value();
        break;
      case 'O':
        request.output_format = words.value();
        break;
      case 'U':
        request.flags.force_share = true;
        break;
      case kImageOpts:
        request.image_options = true;
        break;
      case kOutput:
        request.output = parse_output_format(words.value());
        break;
      case kSize:
        request.size = parse_number(words.value(), "image size");
        break;
      default:
        break;
    }
  }
  return request;
}

}  // namespace

Task<int> run_measure(Images& images, Words& words) {
  Request request = parse(words);
  if (request.help) {
    print_help(images.tool().layer());
    co_return 0;
  }
  std::vector<std::string> rest = words.rest();
  if (rest.size() > 1) throw Error("At most one filename argument is allowed.");
  if (rest.empty() && (request.image_options || request.format || request.snapshot))
    throw Error("--image-opts, -f, and -l require a filename argument.");
  if (rest.empty() && !request.size)
    throw Error("Either --size N or one filename must be specified.");
  if (!rest.empty() && request.size)
    throw Error("--size N cannot be used together with a filename.");

  uint64_t size = static_cast<uint64_t>(request.size.value_or(0));
  if (!rest.empty()) {
    Backend* image =
        co_await images.open(rest[0], request.format, request.image_options, request.flags);
    if (request.snapshot) throw Error("Failed to load snapshot: Can't find the snapshot");
    size = image->length();
  }
  auto known = create_options(images.tool().layer(), request.output_format, nullptr);
  CreateValues values;
  try {
    parse_create_options(known, request.options, values);
  } catch (const Error& error) {
    report(error);
    throw Error("Invalid options for file format '{}'", request.output_format);
  }
  size = align_up(size, kSectorSize);
  if (request.output == OutputFormat::json) {
    boost::json::object info{{"required", size}, {"fully-allocated", size}};
    fmt::print("{}\n", qapi::write_json(info, qapi::JsonStyle::pretty));
  } else {
    fmt::print("required size: {0}\nfully allocated size: {0}\n", size);
  }
  co_return 0;
}

}  // namespace strata::tools
