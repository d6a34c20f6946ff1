// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/names/filename.h"
#include "tools/img/command.h"
#include "tools/img/create_options.h"

namespace strata::tools {
namespace {

struct Request {
  std::string format = "raw";
  std::optional<std::string> backing;
  std::optional<std::string> backing_format;
  std::string options;
  bool quiet = false;
  bool unsafe = false;  // the backing file is not looked at
};

std::vector<std::string> parse(Words& words, Request& request) {
  return words.parse({
      {"-f, --format FMT", "format of the new image (default: raw)", into(request.format)},
      option_list_option("-o, --options LIST", request.options),
      {"-b, --backing FILE", "backing file, of which only what differs is stored",
       into(request.backing)},
      {"-B, -F, --backing-format FMT", "its format", into(request.backing_format)},
      {"-u, --backing-unsafe", "do not look at the backing file", set(request.unsafe)},
      quiet_option(request.quiet),
  });
}

CreateValues collect_values(const Request& request, const std::vector<CreateOption>& known,
                            const std::string& filename, std::optional<int64_t> size) {
  CreateValues values;
  parse_create_options(known, request.options, values);
  if (size) {
    if (values.contains("size")) throw Error("The image size must be specified only once");
    values["size"] = std::to_string(*size);
  }
  if (request.backing && !has_option(known, "backing_file"))
    throw Error("Backing file not supported for file format '{}'", request.format);
  if (request.backing_format && !has_option(known, "backing_fmt"))
    throw Error("Backing file format not supported for file format '{}'", request.format);
  if (request.backing) values["backing_file"] = *request.backing;
  if (request.backing_format) values["backing_fmt"] = *request.backing_format;
  auto backing = values.find("backing_file");
  if (backing == values.end()) return values;
  if (backing->second.empty()) throw Error("Expected backing file name, got empty string");
  if (backing->second == filename)
    throw Error("Error: Trying to create an image with the same filename as the backing file");
  return values;
}

struct BackingFile {
  uint64_t length = 0;
  std::string format;
};

// Looks at what will be the backing file: whether it is there, and how long it is. It may be in
// use, and its key need not be known.
Task<BackingFile> look_at_backing(Tool& tool, const std::string& filename,
                                  const CreateValues& values) {
  ImageSource source;
  source.filename = absolute_name(values.at("backing_file"), filename);
  if (auto given = values.find("backing_fmt"); given != values.end()) source.format = given->second;
  std::optional<Error> failed;
  BackingFile found;
  try {
    std::unique_ptr<Backend> image = co_await open_backend(
        tool, std::move(source), {.force_share = true, .metadata_only = true});
    found = {image->length(), std::string(image->node().format_name())};
    co_await image->close(tool.loop());
  } catch (Error& error) {
    failed = std::move(error).hint("Could not open backing image.\n");
  }
  if (failed) throw *failed;
  co_return found;
}

// What the new image takes over from its backing file.
Task<void> complete_from_backing(Tool& tool, const Request& request, const std::string& filename,
                                 CreateValues& values) {
  if (!values.contains("backing_file")) co_return;
  std::optional<std::string> found_format;
  if (!request.unsafe) {
    BackingFile found = co_await look_at_backing(tool, filename, values);
    values.try_emplace("size", std::to_string(found.length));
    found_format = found.format;
  }
  if (values.contains("backing_fmt")) co_return;
  Error missing("Backing file specified without backing format");
  if (!found_format) throw missing;
  throw std::move(missing).hint("Detected format of " + *found_format + ".");
}

Task<void> create(Tool& tool, const Request& request, const std::string& filename,
                  std::optional<int64_t> size) {
  std::vector<CreateOption> known = create_options(tool.layer(), request.format, &filename);
  CreateValues values = collect_values(request, known, filename, size);
  co_await complete_from_backing(tool, request, filename, values);
  if (!values.contains("size")) throw Error("Image creation needs a size parameter");
  if (!request.quiet)
    fmt::print("Formatting '{}', {}\n", filename, describe_create(request.format, known, values));
  std::fflush(stdout);
  try {
    co_await create_image(tool, filename, request.format, values);
  } catch (const Error& error) {
    if (error.error_number() != EFBIG) throw;
    bool has_clusters = has_option(known, "cluster_size");
    throw Error("The image size is too large for file format '{}'{}", request.format,
                has_clusters ? " (try using a larger cluster size)" : "");
  }
}

}  // namespace

Task<int> run_create(Images& images, Words& words) {
  Request request;
  std::vector<std::string> rest = parse(words, request);
  if (is_help_option(request.options)) {
    print_create_help(images.tool().layer(), request.format, rest.empty() ? nullptr : &rest[0]);
    co_return 0;
  }
  if (rest.empty()) throw UsageError{"Expecting image file name"};
  std::optional<int64_t> size;
  if (rest.size() > 1) size = parse_number(rest[1], "image size");
  if (rest.size() > 2) throw UsageError{"Unexpected argument: " + rest[2]};
  std::optional<Error> failed;
  try {
    co_await create(images.tool(), request, rest[0], size);
  } catch (Error& error) {
    failed = std::move(error).prepend(rest[0] + ": ");
  }
  if (failed) throw *failed;
  co_return 0;
}

}  // namespace strata::tools
