// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/command.h"
#include "tools/img/create_options.h"

namespace strata::tools {
namespace {

constexpr option kOptions[]{{"help", no_argument, nullptr, 'h'},
                            {"object", required_argument, nullptr, kObject},
                            {nullptr, 0, nullptr, 0}};

struct Request {
  std::string format = "raw";
  std::optional<std::string> backing;
  std::optional<std::string> backing_format;
  std::string options;
  bool quiet = false;
  bool help = false;
};

void add_options(std::string& all, const std::string& more) {
  if (!all.empty()) all += ',';
  all += more;
}

Request parse(Words& words) {
  Request request;
  for (int option; (option = words.next("F:b:f:ho:qu", kOptions)) != -1;) {
    switch (option) {
      case 'F':
        request.backing_format = words.value();
        break;
      case 'b':
        request.backing = words.value();
        break;
      case 'f':
        request.format = words.value();
        break;
      case 'h':
        request.help = true;
        break;
      case 'o':
        if (words.value().empty() || words.value().front() == ',' || words.value().back() == ',')
          throw Error("Invalid option list: {}", words.value());
        add_options(request.options, words.value());
        break;
      case 'q':
        request.quiet = true;
        break;
      default:
        break;  // -u: the backing file is not looked at anyhow
    }
  }
  return request;
}

CreateValues collect_values(const BlockLayer& layer, const Request& request,
                            const std::string& filename, std::optional<int64_t> size) {
  std::vector<CreateOption> known = create_options(layer, request.format, &filename);
  CreateValues values;
  parse_create_options(known, request.options, values);
  if (size) {
    if (values.contains("size")) throw Error("The image size must be specified only once");
    values["size"] = std::to_string(*size);
  }
  if (request.backing)
    throw Error("Backing file not supported for file format '{}'", request.format);
  if (request.backing_format)
    throw Error("Backing format not supported for file format '{}'", request.format);
  if (!values.contains("size")) throw Error("Image creation needs a size parameter");
  return values;
}

}  // namespace

Task<int> run_create(Images& images, Words& words) {
  Tool& tool = images.tool();
  Request request = parse(words);
  if (request.help) {
    print_help(tool.layer());
    co_return 0;
  }
  std::vector<std::string> rest = words.rest();
  if (is_help_option(request.options)) {
    auto options = create_options(tool.layer(), request.format, rest.empty() ? nullptr : &rest[0]);
    fmt::print("Supported {}options:\n", rest.empty() ? request.format + " " : "");
    print_create_options(options);
    if (rest.empty())
      fmt::print(
          "\nThe protocol level may support further options.\n"
          "Specify the target filename to include those options.\n");
    co_return 0;
  }
  if (rest.empty()) throw UsageError{"Expecting image file name"};
  std::optional<int64_t> size;
  if (rest.size() > 1) size = parse_number(rest[1], "image size");
  if (rest.size() > 2) throw UsageError{"Unexpected argument: " + rest[2]};
  std::optional<Error> failed;
  try {
    CreateValues values = collect_values(tool.layer(), request, rest[0], size);
    if (!request.quiet)
      fmt::print("Formatting '{}', {}\n", rest[0], describe_create(request.format, {}, values));
    co_await create_image(tool, rest[0], request.format, values);
  } catch (Error& error) {
    failed = std::move(error).prepend(rest[0] + ": ");
  }
  if (failed) throw *failed;
  co_return 0;
}

}  // namespace strata::tools
